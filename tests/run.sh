#!/usr/bin/env bash
# Installs what the tests need and runs them all. Needs Rust, Python and pip; installs Gloo and Chromium with apt where it
# may.
# Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"

packages=(libgloo-dev g++)
# Ubuntu's package of Chromium is a stub for snap: bring a browser of your own there.
if ! command -v chromium chromium-browser google-chrome >/dev/null; then packages+=(chromium); fi
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    install="apt-get install -y --no-install-recommends ${packages[*]}"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && $install
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo apt-get update -qq && sudo $install
    else
        echo "the tests need ${packages[*]}, and this account may not install them: ask for '$install'" >&2
        exit 1
    fi
fi

# Python for the tests that talk to other programs: an S3 server, TensorBoard, the schemas of Kubernetes. NCCL's library,
# whose rendezvous needs no GPU. Playwright drives the Chromium above; it downloads none.
venv="$target/tests-venv"
needs=(tensorboard 'moto[server]>=5,<6' 'boto3>=1,<2' 'kubernetes-validate>=1.37' 'nvidia-nccl-cu13==2.30.7' 'playwright>=1.40,<2')
stamp="$venv/installed ${needs[*]}"
if [ ! -e "$stamp" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "${needs[@]}"
    touch "$stamp"
fi
LIDIT_TESTS_PYTHON="$(cd "$venv" && pwd)/bin/python"
export LIDIT_TESTS_PYTHON

# This also builds the program, which brings the two language models of the encoders' tests.
cargo test --locked --workspace --features gloo --no-run
"$target/debug/lidit" fetch smollm2 gemma3
cargo test --locked --workspace --features gloo "$@"

# The wheel has no libnccl.so, the name under which the library is looked for.
nccl=$("$LIDIT_TESTS_PYTHON" -c 'import nvidia.nccl; print(nvidia.nccl.__path__[0] + "/lib")')
ln -sf "$nccl/libnccl.so.2" "$venv/lib/libnccl.so"
said=$(LD_LIBRARY_PATH="$(cd "$venv/lib" && pwd)" \
    cargo test --locked -p lidit-dist --features gloo,nccl --lib nccl -- --nocapture)
echo "$said"
if [[ $said == *"not run: nccl"* ]]; then exit 1; fi

# A run's TensorBoard files, read by TensorBoard itself.
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
"$target/debug/lidit" train configs/run/debug.toml --run-dir "$run/debug" 2>"$run/log" || { cat "$run/log" >&2; exit 1; }
"$LIDIT_TESTS_PYTHON" tests/e2e/check_tensorboard.py "$run/debug"

# Report pages, read and worked in a browser.
LIDIT_REPORT_PAGES="$run/pages" cargo test --locked --workspace --features gloo --lib every_kind_of_sweep_has_a_page
"$LIDIT_TESTS_PYTHON" tests/e2e/check_report.py "$run/pages"
