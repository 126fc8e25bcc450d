#!/usr/bin/env bash
# Proves or times a CUDA binary on this machine's GPU: builds nothing, ends in under 8 minutes, prints tables.
#   tests/gpu.sh check BINARY   every operation beside its reference; the debug run in f32 and bf16 on the GPU, beside the
#                               same runs on the CPU; gradients of three steps, with and without fusion; 300 steps
#                               without memory growth; NCCL's collectives with one rank, and with two where this GPU
#                               takes two
#   tests/gpu.sh bench BINARY   images/s, MFU and memory beside PyTorch compiled, in turns, bf16: 1b at 256 pixels, small at
#                               256, 1b at 512 with recomputation. What no longer fits the time is named: run it again,
#                               compiled kernels and the choices of autotune are kept
# Needs a driver, NVRTC and CUDA's headers: a toolkit at CUDA_PATH, or NVIDIA's Python wheels. bench needs PyTorch.
set -euo pipefail
usage() { echo "usage: tests/gpu.sh check|bench BINARY" >&2; exit 2; }
[ $# = 2 ] || usage
mode=$1
binary=$(realpath "$2")
[ "$mode" = check ] || [ "$mode" = bench ] || usage
cd "$(dirname "$0")/.."
command -v nvidia-smi >/dev/null || { echo "no GPU here: nvidia-smi is missing" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
limit=465
# Seconds for a command that may take $1, of those that are left.
seconds() {
    local left=$((limit - SECONDS))
    [ "$left" -gt 1 ] || left=1
    echo $((left < $1 ? left : $1))
}

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

# NAME SECONDS COMMAND..: a piece of the log where it fails.
try() {
    local name=$1 most
    most=$(seconds "$2")
    shift 2
    timeout "$most" "$@" >"$work/$name.out" 2>"$work/$name.log" && return
    local code=$?
    [ "$code" = 124 ] && echo "$name: no end after $most s" >&2 || echo "$name failed with $code:" >&2
    tail -n 30 "$work/$name.out" >&2
    tail -n 20 "$work/$name.log" >&2
    return 1
}
run() { try "$@" || exit 1; }

if [ "$mode" = bench ]; then
    # What stands in docs/benchmarks.md: name, config, side of the latents, further keys.
    compare() {
        local name=$1 config=$2 side=$3
        shift 3
        printf '\n%s\n' "$name"
        # One turn first, so that compiling kernels and choosing among them is in no table.
        if try "$name-tune" 200 "$binary" bench step "configs/run/$config.toml" --json --synthetic --device cuda \
            --precision bf16 --context-dims 576,640 --text-tokens 64,64 --size "$side" --steps 1 --warmup 1 "$@" \
            && try "$name" 200 python3 tests/peers/bench_torch.py --lidit "$binary" --config "configs/run/$config.toml" \
                --precision bf16 --device cuda --text-tokens 64,64 --size "$side" --rounds 2 --steps 6 --warmup 2 \
                --peers compiled "$@"; then
            cat "$work/$name.out"
        else
            echo "not measured (at $SECONDS s): run again, its kernels are kept"
            missing=1
        fi
    }
    missing=0
    python3 -c 'import torch; print("PyTorch", torch.__version__, "CUDA", torch.version.cuda)'
    compare "1b-at-256" bench-1b 32
    compare "small-at-256" bench-small 32
    compare "1b-at-512-recomputed" bench-1b 64 --set train.recompute_blocks=4 --set train.global_batch=16 \
        --set train.micro_batch=16
    exit "$missing"
fi

run kernels 150 "$binary" doctor --kernels --device cuda --run-dir "$work/none"
cat "$work/kernels.out"

for device in cpu cuda; do
    for precision in f32 bf16; do
        run "$precision-$device.train" 150 "$binary" train configs/run/debug.toml --device "$device" \
            --run-dir "$work/$precision-$device" --set "train.precision=\"$precision\""
        run "$precision-$device.sample" 60 "$binary" sample --run "$work/$precision-$device" --device "$device" \
            --weights raw --out "$work/$precision-$device/pictures"
    done
done

# Three steps each, for their gradients: in the first one most of the network has none, its gates are closed.
step=(train configs/run/debug.toml --set train.steps=3 --set train.sample_every=0)
for device in cpu cuda; do
    for precision in f32 bf16; do
        run "step-$precision-$device" 100 "$binary" "${step[@]}" --device "$device" --set "train.precision=\"$precision\"" \
            --run-dir "$work/step-$precision-$device"
    done
done
# No exploration, no fusion: every operation is a kernel of its own.
BURN_FUSION_MAX_EXPLORATIONS=0 run step-unfused 100 "$binary" "${step[@]}" --device cuda --run-dir "$work/step-f32-unfused"

# What the whole GPU holds once every length of caption was seen, and 300 steps later.
used() { nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits --id="${CUDA_VISIBLE_DEVICES:-0}" | head -n 1; }
grown=$work/growth
timeout "$(seconds 150)" "$binary" train configs/run/debug.toml --device cuda --run-dir "$grown" --set train.steps=360 \
    --set train.sample_every=0 --set train.checkpoint_every=1000 >"$work/growth.out" 2>"$work/growth.log" &
training=$!
while kill -0 "$training" 2>/dev/null; do
    steps=$( (wc -l <"$grown/metrics.jsonl") 2>/dev/null || echo 0)
    echo "$steps $(used)" >>"$work/growth.used"
    sleep 0.2
done
wait "$training" || { echo "360 steps failed:" >&2; tail -n 20 "$work/growth.log" >&2; exit 1; }

# Every collective checks its sums itself.
export LIDIT_TRANSPORT=nccl
run nccl-1 100 "$binary" launch --nproc 1 -- bench comm --mb 50 --rounds 5
# Two ranks may share a GPU from 2.30 on, and might wait for each other for ever.
version=$(python3 -c 'import ctypes; v = ctypes.c_int(); ctypes.CDLL("libnccl.so").ncclGetVersion(ctypes.byref(v)); print(v.value)')
if [ "$version" -ge 23000 ]; then
    export NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=8 NCCL_NVLS_ENABLE=0 CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"
    run nccl-2 100 "$binary" launch --nproc 2 -- bench comm --mb 50 --rounds 5
    run step-nccl 100 "$binary" launch --nproc 2 -- "${step[@]}" --device cuda --run-dir "$work/step-f32-nccl" \
        --set 'train.sharding="zero1"' --set train.bucket_mb=1
fi
python3 tests/gpu_compare.py "$work"
