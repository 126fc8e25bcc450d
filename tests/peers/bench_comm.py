"""`lidit bench comm` over Gloo and torch.distributed's Gloo on the same vectors, in turns, in one run.

    pip install torch numpy
    python tests/peers/bench_comm.py --lidit target/release/lidit [--mb 100] [--world 2 4] [--turns 5] [--rounds 8]

Both are processes on this machine that talk over the loopback interface, one thread for arithmetic each. A time is that
of the slowest rank; a ratio is the peer's time by ours, above 1 where lidit is faster.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time


def torch_rank(mb, rounds):
    """One rank of the peer; rank 0 prints seconds by collective."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    size = dist.get_world_size()
    n = mb * 1_000_000 // 4 // size * size
    whole, part = torch.ones(n), torch.ones(n // size)
    calls = {
        "all_reduce": lambda: dist.all_reduce(whole),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
    }
    seconds = {}
    for name, call in calls.items():
        call()
        seconds[name] = []
        for _ in range(rounds):
            whole.fill_(1.0)
            dist.barrier()
            begun = time.perf_counter()
            call()
            slowest = torch.tensor([time.perf_counter() - begun], dtype=torch.float64)
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            seconds[name].append(slowest.item())
    if dist.get_rank() == 0:
        print(json.dumps(seconds))
    dist.destroy_process_group()


def time_torch(mb, rounds, size):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--torch-rank", "--mb", str(mb), "--rounds", str(rounds)]
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(command, env={**os.environ, **place, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    outputs = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        sys.exit("a rank of the peer failed")
    return json.loads(outputs[0])


def time_lidit(lidit, mb, rounds, size):
    command = [lidit, "launch", "--nproc", str(size), "--"]
    command += ["bench", "comm", "--json", "--mb", str(mb), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lidit failed: {done.stderr}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return {collective["name"]: collective["seconds"] for collective in answer["collectives"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lidit", default="target/release/lidit")
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--world", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--torch-rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_rank:
        return torch_rank(args.mb, args.rounds)
    print(f"{args.mb} MB of f32, {args.turns} turns of {args.rounds} rounds; load {os.getloadavg()[0]:.1f}")
    print("| processes | collective | PyTorch ms (median, best) | lidit ms (median, best) | ratio of medians, of bests |")
    print("|---|---|---|---|---|")
    for size in args.world:
        ours, theirs = {}, {}
        for _ in range(args.turns):
            for all_seconds, seconds in (
                (theirs, time_torch(args.mb, args.rounds, size)),
                (ours, time_lidit(args.lidit, args.mb, args.rounds, size)),
            ):
                for name, times in seconds.items():
                    all_seconds.setdefault(name, []).extend(times)
        for name, times in ours.items():
            median, best = statistics.median(times) * 1e3, min(times) * 1e3
            peer = theirs.get(name.removesuffix("_bf16"), times)
            peer_median, peer_best = statistics.median(peer) * 1e3, min(peer) * 1e3
            print(
                f"| {size} | {name} | {peer_median:.0f} ({peer_best:.0f}) | {median:.0f} ({best:.0f}) "
                f"| {peer_median / median:.2f}, {peer_best / best:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
