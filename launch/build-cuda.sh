#!/usr/bin/env bash
# Builds the CUDA binary: stripped, without Gloo, with no CUDA toolkit needed here.
# Prints its path and size. On the GPU machine it needs libcuda, libnvrtc, CUDA's headers and (several ranks) libnccl.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked -p lidit --features cuda,nccl >&2
folder=$(cargo metadata --format-version 1 --no-deps --locked | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
binary=$folder/cuda/lidit
mkdir -p "$folder/cuda"
strip -o "$binary" "$folder/release/lidit"
echo "$binary $(stat -c %s "$binary") bytes"
