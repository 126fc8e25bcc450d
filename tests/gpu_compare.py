"""Compares the runs of tests/gpu.sh: losses, pictures and gradients of the GPU with the CPU's; says what NCCL did.
Standard library only."""

import array
import json
import struct
import sys
import zlib
from pathlib import Path

# Largest relative difference of a logged loss over twenty steps, and mean difference of a picture's bytes.
TOLERANCES = {"f32": (1e-3, 2.0), "bf16": (2e-2, 8.0)}
# Relative L2 distance of the whole mean gradient of three steps. A GPU makes f32 products from factors rounded to TF32 (11
# bits), which cubek has no switch against; without it 1e-4 would do.
GRADIENTS = {"f32": 4e-3, "bf16": 2e-2}
# Memory may grow by this share, and these MiB of one more page of a pool, over 300 steps.
GROWTH, PAGE = 0.02, 64


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def pixels(path: Path) -> bytes:
    """The bytes of an 8-bit RGB PNG without interlacing."""
    data, at, packed = path.read_bytes(), 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2), f"{path}: not 8-bit RGB"
        elif kind == b"IDAT":
            packed += body
        at += length + 12
    raw, stride, out = zlib.decompress(packed), 3 * width, bytearray()
    above = bytes(stride)
    for y in range(height):
        line = bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        rule = raw[y * (stride + 1)]
        for x in range(stride):
            left = line[x - 3] if x >= 3 else 0
            corner = above[x - 3] if x >= 3 else 0
            guess = (0, left, above[x], (left + above[x]) // 2, paeth(left, above[x], corner))[rule]
            line[x] = (line[x] + guess) & 255
        out += line
        above = bytes(line)
    return bytes(out)


def paeth(a: int, b: int, c: int) -> int:
    p = a + b - c
    return min((a, b, c), key=lambda v: abs(p - v))


def gradient(run: Path) -> array.array:
    """A weighted mean of the steps' gradients in flat space: the first moment, from however many ranks wrote it."""
    parts = {}
    for path in (run / "checkpoints/step-3").glob("optimizer-*.safetensors"):
        data = path.read_bytes()
        header_len = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_len])
        begin, end = header["moment_1"]["data_offsets"]
        part = parts[int(header["__metadata__"]["start"])] = array.array("f")
        part.frombytes(data[8 + header_len + begin : 8 + header_len + end])
    whole = array.array("f")
    for start, part in sorted(parts.items()):
        assert start == len(whole), f"{run}: the optimizer's parts leave a gap at {len(whole)}"
        whole.extend(part)
    return whole


def compare_gradients(work: Path) -> int:
    failed = 0
    for name, what in (
        ("f32-cuda", "f32, one rank"),
        ("f32-unfused", "f32, without fusion"),
        ("f32-nccl", "f32, two ranks over NCCL"),
        ("bf16-cuda", "bf16, one rank"),
    ):
        if not (work / f"step-{name}").exists():
            print(f"gradients of three steps, {what}: not run")
            continue
        precision = name.split("-")[0]
        cpu, gpu = gradient(work / f"step-{precision}-cpu"), gradient(work / f"step-{name}")
        norm = sum(x * x for x in cpu) ** 0.5
        distance = sum((a - b) ** 2 for a, b in zip(gpu, cpu, strict=True)) ** 0.5 / norm
        allowed = GRADIENTS[precision]
        good = distance <= allowed
        failed += not good
        print(f"gradients of three steps, {what}: {distance:.2e} away, allowed {allowed:.0e}: {'same' if good else 'DIFFERENT'}")
    return failed


def compare_memory(work: Path) -> int:
    """The largest use in steps 20 to 60 and after step 300 of the same run."""
    seen = [tuple(map(int, line.split())) for line in (work / "growth.used").read_text().splitlines()]
    early = [used for step, used in seen if 20 <= step <= 60]
    late = [used for step, used in seen if step >= 300]
    if not early or not late:
        print("memory over 300 steps: NOT SEEN, the steps were faster than nvidia-smi")
        return 1
    good = max(late) <= max(early) * (1 + GROWTH) + PAGE
    print(f"memory: {max(early)} MiB at steps 20 to 60, {max(late)} MiB after step 300: {'level' if good else 'GROWS'}")
    return int(not good)


def show_nccl(work: Path) -> None:
    for name, what in (("nccl-1", "one rank"), ("nccl-2", "two ranks on one GPU")):
        path = work / f"{name}.out"
        print(f"\nNCCL, {what}: {'sums as the CPU makes them' if path.exists() else 'not run'}")
        if path.exists():
            print(path.read_text(), end="")


def main(work: Path) -> int:
    failed = 0
    print(f"{'precision':<10}{'loss, max rel':>15}{'allowed':>10}{'picture, mean':>15}{'allowed':>10}  verdict")
    for precision, (loss_tolerance, picture_tolerance) in TOLERANCES.items():
        gpu, cpu = work / f"{precision}-cuda", work / f"{precision}-cpu"
        pairs = list(zip(losses(gpu), losses(cpu), strict=True))
        loss = max(abs(a - b) / b for a, b in pairs)
        bytes_gpu = b"".join(pixels(p) for p in sorted((gpu / "pictures").glob("0*.png")))
        bytes_cpu = b"".join(pixels(p) for p in sorted((cpu / "pictures").glob("0*.png")))
        picture = sum(abs(a - b) for a, b in zip(bytes_gpu, bytes_cpu, strict=True)) / len(bytes_cpu)
        good = loss <= loss_tolerance and picture <= picture_tolerance
        failed += not good
        print(
            f"{precision:<10}{loss:>15.2e}{loss_tolerance:>10.0e}{picture:>15.3f}{picture_tolerance:>10.1f}"
            f"  {'same' if good else 'DIFFERENT'}"
        )
    failed += compare_gradients(work) + compare_memory(work)
    show_nccl(work)
    return int(failed > 0)


sys.exit(main(Path(sys.argv[1])))
