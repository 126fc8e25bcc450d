"""Photo-like JPEGs with captions for `bench_loader.py`: the same pictures as Parquet, as webdataset tars and as MDS shards.

    pip install numpy pillow pyarrow webdataset mosaicml-streaming
    python tests/peers/loader_data.py OUT [--count 10000]

Sides are 448 to 640 pixels, 4:2:0, quality 85 to 91. A picture is a sum of random fields with the spectrum of photos
(amplitude ~ 1/f^a), gradients and soft-edged coloured shapes, with less detail in colour than in brightness and some
noise, so that files are 50 to 90 kB. The same seed gives the same pictures. 1,000 pictures a shard; Parquet has row
groups of 100, as `datasets` writes them.
"""

import argparse
import io
import json
import os
import shutil
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image, ImageDraw, ImageFilter
from streaming import MDSWriter

SHARD_ROWS, GROUP_ROWS, FIELD = 1000, 100, 1536
COLOURS = "red orange yellow green teal blue violet brown grey white".split()
THINGS = "harbour meadow street kitchen mountain garden forest river market window".split()
FEATURES = {"image": {"_type": "Image"}, "caption": {"dtype": "string", "_type": "Value"}}
SCHEMA = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("caption", pa.string())],
    metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
)


def spectrum_field(rng, exponent):
    """A field of unit variance whose amplitude falls with frequency as 1/f^exponent, in f32."""
    frequency = np.hypot(np.fft.fftfreq(FIELD)[:, None], np.fft.rfftfreq(FIELD)[None, :])
    frequency[0, 0] = 1
    noise = np.fft.rfft2(rng.standard_normal((FIELD, FIELD)))
    field = np.fft.irfft2(noise / frequency**exponent, (FIELD, FIELD))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def start(seed):
    global fields
    rng = np.random.default_rng(seed)
    fields = {exponent: [spectrum_field(rng, exponent) for _ in range(3)] for exponent in (0.9, 1.2, 1.7)}


def patch(rng, exponent, height, width):
    field = fields[exponent][rng.integers(3)]
    y, x = rng.integers(FIELD - height), rng.integers(FIELD - width)
    return np.rot90(field[y : y + height, x : x + width], 2 * rng.integers(2))


def picture(seed, index):
    """The encoded picture and its caption."""
    rng = np.random.default_rng((seed, index))
    width, height = (int(side) for side in rng.integers(448, 641, 2))
    base = rng.uniform(40, 215, 3)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    ramp = (x * rng.uniform(-40, 40) + y * rng.uniform(-40, 40)).astype(np.float32)
    colour = np.clip(base + ramp[..., None] + 18 * patch(rng, 1.7, height, width)[..., None] * rng.uniform(-1, 1, 3), 0, 255)

    canvas = Image.fromarray(colour.astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(6, 20)):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(10, 140)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        corners = [(cx + r * np.cos(a), cy + r * np.sin(a)) for a in angles]
        draw.polygon(corners, fill=tuple(int(value) for value in rng.integers(0, 256, 3)))
    canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))

    pixels = np.asarray(canvas, np.float32)
    light = rng.uniform(14, 26) * patch(rng, 1.2, height, width) + rng.uniform(2, 9) * patch(rng, 0.9, height, width)
    tint = 7 * patch(rng, 1.7, height, width)[..., None] * rng.uniform(-1, 1, 3).astype(np.float32)
    pixels = np.clip(pixels + light[..., None] + tint, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=int(rng.integers(85, 92)), subsampling="4:2:0")
    caption = f"a {rng.choice(COLOURS)} {rng.choice(THINGS)} beside a {rng.choice(COLOURS)} {rng.choice(THINGS)}"
    return out.getvalue(), caption


def write_shard(job):
    """One shard in each of the three formats; its bytes of pictures."""
    out, seed, shard, rows = job
    rows = [(f"{index:06}", *picture(seed, index)) for index in rows]
    with pq.ParquetWriter(out / "parquet" / f"train-{shard:05}.parquet", SCHEMA) as parquet:
        for first in range(0, len(rows), GROUP_ROWS):
            group = [
                {"image": {"bytes": image, "path": f"{key}.jpg"}, "caption": caption}
                for key, image, caption in rows[first : first + GROUP_ROWS]
            ]
            parquet.write_table(pa.Table.from_pylist(group, SCHEMA), row_group_size=GROUP_ROWS)
    with webdataset.TarWriter(str(out / "tar" / f"train-{shard:05}.tar")) as tar:
        for key, image, caption in rows:
            tar.write({"__key__": key, "jpg": image, "txt": caption})
    folder = out / "mds" / f"part-{shard:05}"
    with MDSWriter(out=str(folder), columns={"image": "bytes", "caption": "str"}, size_limit=None) as mds:
        for _, image, caption in rows:
            mds.write({"image": image, "caption": caption})
    return [len(image) for _, image, _ in rows]


def join_mds(folder):
    """One index over the parts, as `streaming.base.util.merge_index` writes it."""
    shards = []
    for part in sorted(folder.glob("part-*")):
        index = json.loads((part / "index.json").read_text())
        for shard in index["shards"]:
            shard["raw_data"]["basename"] = f"{part.name}/{shard['raw_data']['basename']}"
        shards += index["shards"]
        (part / "index.json").unlink()
    (folder / "index.json").write_text(json.dumps({"shards": shards, "version": 2}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in ("parquet", "tar", "mds"):
        shutil.rmtree(args.out / name, ignore_errors=True)
        (args.out / name).mkdir(parents=True)
    jobs = [
        (args.out, args.seed, shard, range(first, min(first + SHARD_ROWS, args.count)))
        for shard, first in enumerate(range(0, args.count, SHARD_ROWS))
    ]
    with Pool(os.cpu_count(), start, (args.seed,)) as pool:
        sizes = []
        for done, lens in enumerate(pool.imap(write_shard, jobs), 1):
            sizes += lens
            print(f"{done} of {len(jobs)} shards", flush=True)
    join_mds(args.out / "mds")
    quantiles = np.percentile(sizes, [1, 10, 50, 90, 99]) / 1e3
    print(f"{len(sizes)} pictures, {sum(sizes) / 1e6:.0f} MB; kB at 1, 10, 50, 90, 99 %:", *(f"{q:.0f}" for q in quantiles))
    for name in ("parquet", "tar", "mds"):
        total = sum(file.stat().st_size for file in (args.out / name).rglob("*") if file.is_file())
        print(f"{name}: {total / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
