#!/usr/bin/env bash
# Proves a CUDA binary on this machine's GPU: builds nothing, ends in under 8 minutes, prints one table.
#   tests/gpu.sh check BINARY   the debug run in f32 and bf16 on the GPU, beside the same runs on the CPU
# Needs a driver, NVRTC and CUDA's headers: a toolkit at CUDA_PATH, or NVIDIA's Python wheels.
set -euo pipefail
[ $# = 2 ] && [ "$1" = check ] || { echo "usage: tests/gpu.sh check BINARY" >&2; exit 2; }
binary=$(realpath "$2")
cd "$(dirname "$0")/.."
command -v nvidia-smi >/dev/null || { echo "no GPU here: nvidia-smi is missing" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader

# The wheels keep libraries and headers under site-packages/nvidia.
wheels=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"] + "/nvidia")')
if [ -d "$wheels" ]; then
    libraries=$(find "$wheels" -type d -name lib | paste -sd:)
    export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    if [ -z "${CUDA_PATH:-}" ] && [ ! -d /usr/local/cuda/include ]; then
        header=$(find "$wheels" -name cuda_runtime.h | head -n 1)
        [ -n "$header" ] && export CUDA_PATH="$(dirname "$(dirname "$header")")"
    fi
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for device in cpu cuda; do
    for precision in f32 bf16; do
        timeout 200 "$binary" train configs/run/debug.toml --device "$device" --run-dir "$work/$precision-$device" \
            --set "train.precision=\"$precision\"" 2>"$work/$precision-$device.log" \
            || { echo "$precision on $device failed:" >&2; tail -n 20 "$work/$precision-$device.log" >&2; exit 1; }
        timeout 60 "$binary" sample --run "$work/$precision-$device" --device "$device" --weights raw \
            --out "$work/$precision-$device/pictures" 2>>"$work/$precision-$device.log"
    done
done
python3 tests/gpu_compare.py "$work"
