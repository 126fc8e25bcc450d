"""The training step of `lidit bench step` and of PyTorch on the same network, shapes, precision and batch, in turns.

    pip install torch safetensors
    python tests/peers/bench_torch.py --lidit target/release/lidit --config configs/run/bench-tiny.toml
        [--precision f32|bf16] [--device cpu|cuda] [--rounds 4] [--steps 5] [--threads 2] [--peers eager compiled]
        [--context-dims 576,640] [--text-tokens 32,32] [--size 64] [--set key=value ..]

The peer is tests/reference/lidit_torch.py as a user would train it: SDPA, fused AdamW in two parameter groups, clipping by
the global norm, one average a half-life by `torch._foreach_lerp_`, the loss read in every step; once eager and once with
`torch.compile`. Both draw noise and times, mix, run forward and backward, clip, update, average. In bf16 the peer computes
as lidit does: all weights but the norms' gains rounded from f32 masters, which AdamW updates.

Inputs are random (`--synthetic`). Peers live through all turns and sleep while others run; lidit is a new process in every
turn. A ratio is lidit's median over that of the faster peer: below 1, lidit is faster. Memory is each process's peak,
resident on a CPU (the interpreter's and the compiler's own included), the allocator's on a GPU.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def peer(kind):
    """A process of the peer: reads the run from the first line, then a number of steps a line; answers their times."""
    import torch

    sys.path.insert(0, str(ROOT / "tests/reference"))
    import lidit_torch as reference

    run = json.loads(sys.stdin.readline())
    train, device = run["network"]["train"], torch.device(run["device"])
    if device.type == "cpu":
        torch.set_num_threads(run["threads"])
    torch.manual_seed(train["seed"])
    objective = reference.objective_of(run["network"]["objective"])
    config = reference.Config.of(run["network"]["model"], run["network"]["conditioning"])
    model = reference.LiDit(config).to(device)
    step = Step(torch, reference, model, objective, run, compiled=kind == "compiled")
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            wait()
            begun = time.perf_counter()
            loss = step()
            wait()
            times.append((time.perf_counter() - begun) * 1e3)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pool = torch.cuda.max_memory_reserved() if device.type == "cuda" else None
        print(json.dumps({"ms": times, "peak": peak, "pool": pool, "loss": loss}), flush=True)


class Step:
    """The peer's training step."""

    def __init__(self, torch, reference, model, objective, run, compiled):
        self.torch, self.reference, self.model, self.objective, self.run = torch, reference, model, objective, run
        train = self.train = run["network"]["train"]
        device, batch, side = torch.device(run["device"]), train["global_batch"], run["size"]
        self.images = torch.randn(batch, model.config.in_channels, side, side, device=device)
        self.prompts = []
        for dim, tokens in zip(model.config.context_dims, run["text_tokens"]):
            real = torch.ones(batch, tokens, dtype=torch.bool, device=device)
            self.prompts.append((torch.randn(batch, tokens, dim, device=device), real))
        masters = [p.detach().clone().requires_grad_() for p in model.parameters()]
        if train["precision"] == "bf16":
            model.compute_in(torch.bfloat16)
            self.masters = masters
        else:
            self.masters = list(model.parameters())
        decayed = [p for p in self.masters if p.dim() > 1]
        others = [p for p in self.masters if p.dim() <= 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=train["lr"], betas=train["betas"], eps=train["eps"], weight_decay=train["weight_decay"], fused=True
        )
        self.averages = [(0.5 ** (batch / half), [p.detach().clone() for p in self.masters]) for half in train["ema_half_lives"]]
        self.forward = torch.compile(model) if compiled else model

    def micro_batches(self):
        size = self.train["micro_batch"]
        for start in range(0, len(self.images), size):
            chosen = slice(start, start + size)
            prompts = [self.reference.Prompt(states[chosen], real[chosen], real[chosen]) for states, real in self.prompts]
            yield self.images[chosen], prompts

    def loss(self, images, prompts):
        torch, reference = self.torch, self.reference
        noise, draws = torch.randn_like(images), torch.rand(len(images), 2, device=images.device)
        tokens = reference.image_tokens(self.model, images)
        x, timesteps, target, own = reference.noised(self.objective, images, noise, draws, tokens)
        error = reference.wide(self.forward(x, timesteps, prompts)) - target
        return (error.square().mean((1, 2, 3)) * own).sum() / self.train["global_batch"]

    def __call__(self):
        torch, total = self.torch, 0.0
        for images, prompts in self.micro_batches():
            loss = self.loss(images, prompts)
            loss.backward()
            total += loss.item()
        weights = list(self.model.parameters())
        if self.train["precision"] == "bf16":
            for master, weight in zip(self.masters, weights):
                master.grad = weight.grad.float()
        torch.nn.utils.clip_grad_norm_(self.masters, self.train["max_grad_norm"])
        self.optimizer.step()
        with torch.no_grad():
            for keep, average in self.averages:
                torch._foreach_lerp_(average, self.masters, 1 - keep)
            if self.train["precision"] == "bf16":
                torch._foreach_copy_(weights, self.masters)
        self.optimizer.zero_grad()
        self.model.zero_grad()
        return total


class Peer:
    """A peer's process."""

    def __init__(self, kind, run):
        command = [sys.executable, __file__, "--peer", kind]
        environment = os.environ | {"OMP_NUM_THREADS": str(run["threads"]), "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.say(json.dumps(run))

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def steps(self, count):
        """What so many steps took; `None` where the peer can't make them, with the reason."""
        try:
            self.say(str(count))
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            reason = [line for line in self.process.stderr.read().splitlines() if line.strip()] or ["no word"]
            return None, reason[-1]
        return json.loads(answer), None


def lidit(args, steps, warmup):
    command = [
        args.lidit, "bench", "step", args.config, "--json", "--synthetic", "--device", args.device,
        "--precision", args.precision, "--context-dims", args.context_dims, "--text-tokens", args.text_tokens,
        "--size", str(args.size), "--steps", str(steps), "--warmup", str(warmup),
    ]  # fmt: skip
    for change in args.set:
        command += ["--set", change]
    environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except OSError as error:
        sys.exit(f"error: --lidit {args.lidit} can't be run ({error.strerror}): build it with cargo build --release")
    if done.returncode:
        sys.exit(f"lidit failed: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lidit", default="target/release/lidit")
    parser.add_argument("--config", default=str(ROOT / "configs/run/bench-tiny.toml"))
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="timed steps a turn")
    parser.add_argument("--warmup", type=int, default=2, help="steps before lidit's clock starts, in every turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers", nargs="+", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument("--context-dims", default="576,640")
    parser.add_argument("--text-tokens", default="32,32")
    parser.add_argument("--size", type=int, default=64, help="height and width of what the network sees")
    parser.add_argument("--set", action="append", default=[], help="a key of the run's config")
    parser.add_argument("--peer", choices=["eager", "compiled"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(args.peer)
    load = os.getloadavg()[0]
    tokens = [int(count) for count in args.text_tokens.split(",")]
    run = {
        "network": lidit(args, 1, 0)["network"], "device": args.device, "threads": args.threads, "size": args.size,
        "text_tokens": tokens * (len(args.context_dims.split(",")) // len(tokens)),
    }  # fmt: skip
    peers, ms, memory = {}, {"lidit": []}, {}
    for kind in args.peers:
        candidate = Peer(kind, run)
        # Compiles, fills the allocator.
        warm, reason = candidate.steps(3)
        if warm is None:
            print(f"PyTorch {kind} does not run here: {reason}", file=sys.stderr)
        else:
            peers[kind] = candidate
    if not peers:
        sys.exit("no peer runs")
    for _ in range(args.rounds):
        for kind, candidate in peers.items():
            answer, reason = candidate.steps(args.steps)
            if answer is None:
                sys.exit(f"PyTorch {kind} failed: {reason}")
            ms.setdefault(f"PyTorch {kind}", []).extend(answer["ms"])
            memory[f"PyTorch {kind}"] = (answer["peak"], answer["pool"])
        answer = lidit(args, args.steps, args.warmup)
        ms["lidit"].extend(answer["steps_ms"])
        peak, pool = memory.get("lidit", (0, 0))
        memory["lidit"] = (max(peak, answer["peak_rss_bytes"]), max(pool, answer["device_pool_bytes"] or 0))
    for candidate in peers.values():
        candidate.process.stdin.close()
        candidate.process.wait()
    report(args, answer, ms, memory, load)


def report(args, answer, ms, memory, load):
    train = answer["network"]["train"]
    print(
        f"{Path(args.config).stem}, {answer['parameters']} parameters, batch {train['global_batch']}, {args.precision}, "
        f"{args.device}, {args.threads} threads, {args.rounds} turns of {args.steps} steps; load {load:.1f} at the start"
    )
    bar = min((statistics.median(times), name) for name, times in ms.items() if name != "lidit")[1]
    on_gpu = args.device == "cuda"
    print(f"ratios to {bar}: below 1, less time or memory than PyTorch")
    print("| program | ms a step (median, spread) | images/s | ratio of medians, of bests | peak memory, MiB | ratio |")
    print("|---|---|---|---|---|---|")
    for name, times in ms.items():
        median, peak = statistics.median(times), memory[name][on_gpu]
        of_bar = memory[bar][on_gpu]
        share = f"{peak / of_bar:.2f}" if peak and of_bar else "unknown"
        print(
            f"| {name} | {median:.1f} ({min(times):.1f} to {max(times):.1f}) | {train['global_batch'] * 1e3 / median:.2f} "
            f"| {median / statistics.median(ms[bar]):.2f}, {min(times) / min(ms[bar]):.2f} | {(peak or 0) / 2**20:.0f} | {share} |"
        )
    phases = ", ".join(f"{name} {took:.0f}" for name, took in answer["phases_ms"].items())
    print(
        f"lidit: MFU {100 * answer['mfu']:.1f} % of {answer['gemm']['flops_per_s'] / 1e9:.0f} GFLOP/s; "
        f"ms by phase, waiting for the device after each: {phases}"
    )


if __name__ == "__main__":
    main()
