"""Writes small Parquet files as pyarrow writes them, with what they hold beside them.

    python generate.py      (needs: pip install pyarrow; written with 26.0.1)

Each file has 40 rows of pictures (noise, not pictures at all) and captions. `rows.json` gives, per file, each row's
picture as text of one character a byte, or null, and its captions.
"""

import json
import pathlib
import random

import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).parent
ROWS = 40
rng = random.Random(6)


def picture(row):
    return None if row % 13 == 5 else bytes(rng.randrange(256) for _ in range(20 + row % 7))


def text(row):
    return None if row % 11 == 3 else f"caption {row % 9}" if row % 10 else ""


def alternatives(row):
    if row % 12 == 4:
        return None
    return [None if at == 1 else f"{at} of {row}" for at in range(row % 4)]


pictures = [picture(row) for row in range(ROWS)]
texts = [text(row) for row in range(ROWS)]
lists = [alternatives(row) for row in range(ROWS)]
# Of a null struct the picture is null too.
structs = [None if row % 17 == 9 else {"bytes": pictures[row], "path": f"{row}.png"} for row in range(ROWS)]
of_structs = [struct and struct["bytes"] for struct in structs]
hf = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
large_hf = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
dictionary = pa.dictionary(pa.int32(), pa.string())

rows = {}


def write(name, image, caption, held, **options):
    table = pa.table({"extra": pa.array(range(ROWS)), "image": image, "caption": caption})
    pq.write_table(table, HERE / f"{name}.parquet", **options)
    pictures, captions = held
    rows[name] = [
        {"image": p if p is None else p.decode("latin-1"), "captions": c}
        for p, c in zip(pictures, captions, strict=True)
    ]


one = [[] if caption is None else [caption] for caption in texts]
many = [[item for item in (items or []) if item is not None] for items in lists]

# A dictionary of 64 bytes is full after two pages, and the rest is written plainly: both kinds in one chunk.
write("fallback", pa.array(pictures, pa.binary()), pa.array(texts), (pictures, one),
      compression="snappy", dictionary_pagesize_limit=64, data_page_size=128, write_batch_size=4, row_group_size=25)
write("hugging-face", pa.array(structs, hf), pa.array(lists, pa.list_(pa.string())), (of_structs, many),
      compression="zstd", data_page_version="2.0", write_page_index=True, data_page_size=128, write_batch_size=4)
write("large", pa.array(structs, large_hf), pa.array(lists, pa.large_list(pa.large_string())), (of_structs, many),
      compression="gzip", row_group_size=7, use_dictionary=False)
write("dictionary", pa.array(pictures, pa.large_binary()).dictionary_encode(), pa.array(texts).cast(dictionary),
      (pictures, one), compression="brotli", data_page_version="2.0", write_page_index=True)
write("lz4", pa.array(pictures, pa.binary()),
      pa.array(lists, pa.list_(pa.string())).cast(pa.list_(dictionary)), (pictures, many), compression="lz4")
write("legacy-lists", pa.array(pictures, pa.binary()), pa.array(lists, pa.list_(pa.string())), (pictures, many),
      compression="none", version="1.0", use_compliant_nested_type=False, store_schema=False)

# Row groups without rows: before, between and after those with some.
table = pa.table({"image": pa.array(pictures, pa.binary()), "caption": pa.array(texts)})
with pq.ParquetWriter(HERE / "empty-groups.parquet", table.schema, write_page_index=True) as writer:
    for start, end in [(0, 0), (0, 15), (15, 15), (15, 40), (40, 40)]:
        writer.write_table(table.slice(start, end - start))
rows["empty-groups"] = [
    {"image": p if p is None else p.decode("latin-1"), "captions": c} for p, c in zip(pictures, one, strict=True)
]
(HERE / "rows.json").write_text(json.dumps(rows, indent=0) + "\n")
