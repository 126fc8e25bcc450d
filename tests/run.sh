#!/usr/bin/env bash
# Installs what the tests need and runs them all. Needs Rust, Python and pip; installs Gloo with apt where it may.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! dpkg -s libgloo-dev >/dev/null 2>&1; then
    install="apt-get install -y --no-install-recommends libgloo-dev g++"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && $install
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo apt-get update -qq && sudo $install
    else
        echo "the tests need Gloo, and this account may not install it: ask for '$install'" >&2
        exit 1
    fi
fi

# The binary that the end-to-end tests run; it also brings the two language models of the encoder tests.
cargo build --locked -p lidit --features gloo
"${CARGO_TARGET_DIR:-target}/debug/lidit" fetch smollm2 gemma3

cargo test --locked --workspace --features gloo "$@"
