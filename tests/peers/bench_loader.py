"""Images a second of `lidit bench loader` and of what else one would stream pictures with, in turns, in one run.

    python -m venv hf && hf/bin/pip install torch datasets webdataset pillow
    python -m venv mds && mds/bin/pip install torch mosaicml-streaming webdataset pyarrow pillow
    mds/bin/python tests/peers/loader_data.py DATA
    hf/bin/python tests/peers/bench_loader.py DATA target/release/lidit --mosaicml-python mds/bin/python

Two environments, because datasets 5 and mosaicml-streaming 0.13 need different versions of huggingface-hub. Written
with torch 2.15, datasets 5.2, webdataset 1.0, mosaicml-streaming 0.13, Pillow 13 (libjpeg-turbo 3.2).

All read shuffled from local files (in the page cache after the first round), cut the largest centred square, resize it
to 256 pixels with Lanczos and make float batches [64, 3, 256, 256] in [-1, 1]. Peers decode with Pillow and `draft`,
that is libjpeg-turbo with scaled decoding; their workers hand on bytes, which are made floats in the main process.

- datasets: `load_dataset(streaming=True)`, pictures as bytes, `shuffle(buffer_size=1000)`, torch's DataLoader
- webdataset: all shards shuffled, `shuffle(1000)`, batched in the workers, WebLoader
- mosaicml: StreamingDataset(shuffle=True, batch_size=64), its default algorithm (py1e), torch's DataLoader

Everything runs on two cores. A run warms up for some seconds, then --images are timed. Memory is the peak over the run
of the process and its children, pages that they share counted once (PSS).
"""

import argparse
import io
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

SIDE, BATCH, BUFFER, WARM_SECONDS = 256, 64, 1000, 4.0
# What lidit loads before its clock starts: 4,096 images, 4 s at 1,000 a second.
WARM_STEPS = 64
PEERS = ("datasets", "webdataset", "mosaicml")


def square(encoded):
    """The picture's centre as bytes [256, 256, 3]."""
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(encoded))
    image.draft("RGB", (SIDE, SIDE))
    image = image.convert("RGB")
    width, height = image.size
    side = min(width, height)
    x, y = (width - side) // 2, (height - side) // 2
    return np.array(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side)))


def datasets_batches(data, workers):
    import datasets
    from torch.utils.data import DataLoader

    files = sorted(str(file) for file in (data / "parquet").glob("*.parquet"))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    rows = rows.cast_column("image", datasets.Image(decode=False)).shuffle(seed=0, buffer_size=BUFFER)
    rows = rows.map(lambda row: {"image": square(row["image"]["bytes"]), "caption": row["caption"]})
    # Pictures stay arrays: without a format they would become lists.
    rows = rows.with_format("numpy")
    for batch in DataLoader(rows, batch_size=BATCH, num_workers=workers, drop_last=True):
        yield batch["image"]


def webdataset_batches(data, workers):
    import torch
    import webdataset as wds

    files = sorted(str(file) for file in (data / "tar").glob("*.tar"))
    rows = wds.WebDataset(files, shardshuffle=len(files), seed=0).shuffle(BUFFER)
    rows = rows.to_tuple("jpg", "txt").map_tuple(square, bytes.decode).batched(BATCH, partial=False)
    for images, _ in wds.WebLoader(rows, batch_size=None, num_workers=workers):
        yield torch.as_tensor(images)


def mosaicml_batches(data, workers):
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    class Pictures(StreamingDataset):
        def __getitem__(self, index):
            row = super().__getitem__(index)
            return {"image": square(row["image"]), "caption": row["caption"]}

    clean_stale_shared_memory()
    rows = Pictures(local=str(data / "mds"), shuffle=True, batch_size=BATCH)
    for batch in DataLoader(rows, batch_size=BATCH, num_workers=workers, drop_last=True):
        yield batch["image"]


def endless(batches, data, workers):
    while True:
        yield from batches(data, workers)


def run_peer(name, data, workers, images):
    """Times one peer in this process and prints what `lidit bench loader --json` does."""
    import torch
    from PIL import Image, features

    batches = endless(globals()[f"{name}_batches"], data, workers)
    start = time.perf_counter()

    def take():
        batch = next(batches).permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0).contiguous()
        assert batch.shape == (BATCH, 3, SIDE, SIDE), batch.shape

    take()
    while time.perf_counter() - start < WARM_SECONDS:
        take()
    times = [time.perf_counter()]
    for _ in range(images // BATCH):
        take()
        times.append(time.perf_counter())
    rate = (len(times) - 1) * BATCH / (times[-1] - times[0])
    median = statistics.median(b - a for a, b in zip(times, islice(times, 1, None)))
    built = f"Pillow {Image.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}, torch {torch.__version__}"
    print(json.dumps({"items_per_s": rate, "median_ms": median * 1e3, "built": built}), flush=True)
    # Workers that are ahead would take part of the next run.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(0)


def tree(pid):
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from tree(int(child))


def resident(pid):
    """Bytes of a process and its children, shared pages counted once."""
    total = 0
    try:
        for member in tree(pid):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    except OSError:
        # A process ended meanwhile.
        pass
    return total


def measure(command):
    """What the command printed last, and its peak memory."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak, ended = 0, threading.Event()

    def watch():
        nonlocal peak
        while not ended.wait(0.5):
            peak = max(peak, resident(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{err}")
    return json.loads(out.strip().splitlines()[-1]), peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("binary", nargs="?", help="lidit; without it, the peers alone")
    parser.add_argument("--mosaicml-python", default=sys.executable)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return run_peer(args.peer, args.data, args.workers[0], args.images)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

    commands = {}
    if args.binary:
        config = Path(__file__).parents[2] / "configs/run/debug.toml"
        keys = {"data.path": (args.data / "parquet").absolute(), "data.image_size": SIDE, "train.global_batch": BATCH}
        sets = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
        ours = [args.binary, "bench", "loader", str(config), *sets, "--warm-up", str(WARM_STEPS)]
        commands["lidit"] = [*ours, "--images", str(args.images), "--json"]
    for peer in PEERS:
        python = args.mosaicml_python if peer == "mosaicml" else sys.executable
        for workers in args.workers:
            peer_run = [python, __file__, str(args.data), "--peer", peer, "--workers", str(workers)]
            commands[f"{peer}, {workers} workers"] = [*peer_run, "--images", str(args.images)]

    rates, memory, built = {name: [] for name in commands}, dict.fromkeys(commands, 0), set()
    for number in range(args.rounds):
        for name, command in commands.items():
            result, peak = measure(command)
            rates[name].append(result["items_per_s"])
            memory[name] = max(memory[name], peak, result.get("peak_rss_bytes", 0))
            built.add(result.get("built", "lidit"))
            print(f"round {number + 1}, {name}: {rates[name][-1]:.0f} images/s", file=sys.stderr, flush=True)

    print("| loader | images/s, median | lowest to highest | peak memory, MiB |\n|---|---|---|---|")
    for name, values in rates.items():
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"| {name} | {statistics.median(values):.0f} | {spread} | {memory[name] / 2**20:.0f} |")
    best = max((name for name in rates if name != "lidit"), key=lambda name: statistics.median(rates[name]))
    print(f"\nBest peer: {best}. Peers: {'; '.join(sorted(built - {'lidit'}))}.")
    if "lidit" in rates:
        ratios = [ours / theirs for ours, theirs in zip(rates["lidit"], rates[best])]
        middle = statistics.median(rates["lidit"]) / statistics.median(rates[best])
        print(f"lidit is {middle:.2f} x the best peer (by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}).")


if __name__ == "__main__":
    main()
