#!/usr/bin/env bash
# From a clone to pictures: builds lidit, fetches two small language models, trains on 32 emoji, draws a grid.
# Needs Rust, Python and pip. Arguments go to `lidit quickstart` (--run-dir DIR, --set KEY=VALUE, --device cuda).
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in cargo python3; do
    command -v "$tool" >/dev/null || { echo "quickstart needs $tool: install it first" >&2; exit 1; }
done
begun=$SECONDS
cargo build --release --locked -p lidit
echo "build: $((SECONDS - begun)) s" >&2
exec "${CARGO_TARGET_DIR:-target}/release/lidit" quickstart "$@"
