"""What saving a training state costs: `lidit bench checkpoint`, torch.save and torch's distributed checkpoint, in turns.

    pip install torch numpy
    python tests/peers/bench_checkpoint.py --lidit target/release/lidit --dir DIR

The state is the same in shape and size for all: masters, two moments and one average of --params f32 numbers, in squares
of 1,024. Stall is what a training loop would wait for, written is when the call's work is over, read is how long it takes
to have everything in memory again. Files of a round are removed after it, and dirty pages are written before each.

What each of them promises when it says it is done:

- lidit: files and folder on the disk (fsync), a SHA-256 of each file in a manifest, one rename, every file read back and
  compared. Reading compares all digests again.
- torch.save: bytes handed to the operating system; `+ fsync` adds fsync of the file. No digest.
- distributed checkpoint, one process: FileSystemWriter's default, which fsyncs its files (sync_files). No digest.
- async_save: as that, after a copy of the state; the stall is the time until the call returns.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

SIDE = 1024


def state_of(params):
    def vector(seed):
        generator = torch.Generator().manual_seed(seed)
        whole, rest = divmod(params, SIDE * SIDE)
        shapes = [(SIDE, SIDE)] * whole + ([(rest,)] if rest else [])
        return {f"blocks.{i}.weight": torch.rand(shape, generator=generator) for i, shape in enumerate(shapes)}

    return {name: vector(seed) for seed, name in enumerate(("model", "exp_avg", "exp_avg_sq", "ema"))}


def timed(work):
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def fsync(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def torch_save(state, path, then):
    file = path / "state.pt"
    path.mkdir()

    def save():
        torch.save(state, file)
        then(file)

    written, _ = timed(save)
    read, _ = timed(lambda: torch.load(file, weights_only=True))
    return written, written, read


def dcp_read(state, path):
    empty = {part: {name: torch.empty_like(t) for name, t in tensors.items()} for part, tensors in state.items()}
    return timed(lambda: dcp.load(empty, checkpoint_id=path))[0]


def dcp_save(state, path):
    written, _ = timed(lambda: dcp.save(state, checkpoint_id=path))
    return written, written, dcp_read(state, path)


def dcp_async(state, path):
    begun = time.perf_counter()
    future = dcp.async_save(state, checkpoint_id=path)
    stall = time.perf_counter() - begun
    future.result()
    written = time.perf_counter() - begun
    return stall, written, dcp_read(state, path)


def lidit(binary, params, path):
    path.mkdir()
    command = [binary, "--json", "bench", "checkpoint", "--params", str(params), "--dir", path, "--rounds", "1"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    seconds = {key: answer[key] / 1e3 for key in ("stall_ms", "median_ms", "verify_ms", "load_ms", "sha256_ms")}
    read = seconds["verify_ms"] + seconds["load_ms"]
    return seconds["stall_ms"], seconds["stall_ms"] + seconds["median_ms"], read, seconds["sha256_ms"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lidit", required=True)
    parser.add_argument("--dir", required=True, type=Path)
    parser.add_argument("--params", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    args.dir.mkdir(parents=True, exist_ok=True)
    rendezvous = (args.dir / "rendezvous").absolute()
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    state = state_of(args.params)
    ways = {
        "lidit": lambda path: lidit(args.lidit, args.params, path),
        "torch.save": lambda path: torch_save(state, path, lambda file: None),
        "torch.save + fsync": lambda path: torch_save(state, path, fsync),
        "distributed checkpoint": lambda path: dcp_save(state, path),
        "distributed checkpoint, async_save": lambda path: dcp_async(state, path),
    }
    times = {name: [] for name in ways}
    for turn in range(args.rounds + 1):
        for name, way in ways.items():
            path = args.dir / "state"
            os.sync()
            try:
                numbers = way(path)
            finally:
                shutil.rmtree(path, ignore_errors=True)
            print(f"turn {turn}: {name}: {[round(seconds, 2) for seconds in numbers]}", file=sys.stderr, flush=True)
            # The first turn warms up.
            if turn > 0:
                times[name].append(numbers)
    dist.destroy_process_group()
    rendezvous.unlink(missing_ok=True)
    print(f"{args.params:,} parameters, {16 * args.params / 1e9:.2f} GB, {args.rounds} rounds, torch {torch.__version__}")
    print("| | stall, s | written, s | read, s |\n|---|---|---|---|")
    for name, rounds in times.items():
        def text(column):
            values = [numbers[column] for numbers in rounds]
            return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

        print(f"| {name} | {text(0)} | {text(1)} | {text(2)} |")
    hashes = [numbers[3] for numbers in times["lidit"]]
    print(f"SHA-256 of the state alone: {statistics.median(hashes):.2f} s")


if __name__ == "__main__":
    main()
