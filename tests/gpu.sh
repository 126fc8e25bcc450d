#!/usr/bin/env bash
# Proves a CUDA binary on this machine's GPU: builds nothing, ends in under 8 minutes, prints one table.
#   tests/gpu.sh check BINARY   the debug run in f32 and bf16 on the GPU, beside the same runs on the CPU; gradients of
#                               three steps; NCCL's collectives with one rank, and with two where this GPU takes two
# Needs a driver, NVRTC and CUDA's headers: a toolkit at CUDA_PATH, or NVIDIA's Python wheels.
set -euo pipefail
[ $# = 2 ] && [ "$1" = check ] || { echo "usage: tests/gpu.sh check BINARY" >&2; exit 2; }
binary=$(realpath "$2")
cd "$(dirname "$0")/.."
command -v nvidia-smi >/dev/null || { echo "no GPU here: nvidia-smi is missing" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The wheels keep libraries and headers under site-packages/nvidia.
wheels=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"] + "/nvidia")')
if [ -d "$wheels" ]; then
    libraries=$(find "$wheels" -type d -name lib | paste -sd:)
    # The wheel has no libnccl.so, the name under which the library is looked for.
    nccl=$(find "$wheels" -name libnccl.so.2 | head -n 1)
    if [ -n "$nccl" ]; then
        ln -s "$nccl" "$work/libnccl.so"
        libraries="$work:$libraries"
    fi
    export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    if [ -z "${CUDA_PATH:-}" ] && [ ! -d /usr/local/cuda/include ]; then
        header=$(find "$wheels" -name cuda_runtime.h | head -n 1)
        [ -n "$header" ] && export CUDA_PATH="$(dirname "$(dirname "$header")")"
    fi
fi

for device in cpu cuda; do
    for precision in f32 bf16; do
        timeout 200 "$binary" train configs/run/debug.toml --device "$device" --run-dir "$work/$precision-$device" \
            --set "train.precision=\"$precision\"" 2>"$work/$precision-$device.log" \
            || { echo "$precision on $device failed:" >&2; tail -n 20 "$work/$precision-$device.log" >&2; exit 1; }
        timeout 60 "$binary" sample --run "$work/$precision-$device" --device "$device" --weights raw \
            --out "$work/$precision-$device/pictures" 2>>"$work/$precision-$device.log"
    done
done

# Three steps each, for their gradients: in the first one most of the network has none, its gates are closed.
step=(train configs/run/debug.toml --set train.steps=3 --set train.sample_every=0)
run() { # NAME COMMAND..: a line of the log where it fails
    local name=$1
    shift
    "$@" >"$work/$name.out" 2>"$work/$name.log" || { echo "$name failed:" >&2; tail -n 20 "$work/$name.log" >&2; exit 1; }
}
for device in cpu cuda; do
    run "step-$device" timeout 100 "$binary" "${step[@]}" --device "$device" --run-dir "$work/step-$device"
done

# Every collective checks its sums itself.
export LIDIT_TRANSPORT=nccl
run nccl-1 timeout 100 "$binary" launch --nproc 1 -- bench comm --mb 50 --rounds 5
# Two ranks may share a GPU from 2.30 on, and might wait for each other for ever.
version=$(python3 -c 'import ctypes; v = ctypes.c_int(); ctypes.CDLL("libnccl.so").ncclGetVersion(ctypes.byref(v)); print(v.value)')
if [ "$version" -ge 23000 ]; then
    export NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=8 NCCL_NVLS_ENABLE=0 CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"
    run nccl-2 timeout 100 "$binary" launch --nproc 2 -- bench comm --mb 50 --rounds 5
    run step-nccl timeout 100 "$binary" launch --nproc 2 -- "${step[@]}" --device cuda --run-dir "$work/step-nccl" \
        --set 'train.sharding="zero1"' --set train.bucket_mb=1
fi
python3 tests/gpu_compare.py "$work"
