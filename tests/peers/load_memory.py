"""Peak memory of loading a language model, as a share of its resident weights.

    pip install numpy
    python tests/peers/load_memory.py --lidit target/release/lidit [--layers 12] [--hidden 2048]

Writes a random Llama folder (bf16, three shards; 1.3 GB by default) and runs `lidit encode` on three token ids in both
precisions. Resident weights are the layers in the precision and the embedding as stored. Exits 1 above 1.15.
"""

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def write_shard(path, shapes, rng):
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            scale = 1.0 if len(shape) == 1 else shape[-1] ** -0.5
            values = (1 if len(shape) == 1 else 0) + scale * rng.standard_normal(shape, dtype=np.float32)
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def make(folder, hidden, layers, vocab):
    heads, mlp = hidden // 64, hidden * 11 // 4 // 64 * 64
    kv = heads // 4 * 64
    config = {
        "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads // 4, "intermediate_size": mlp, "vocab_size": vocab, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        tensors |= {
            layer + "input_layernorm.weight": (hidden,), layer + "post_attention_layernorm.weight": (hidden,),
            layer + "self_attn.q_proj.weight": (hidden, hidden), layer + "self_attn.k_proj.weight": (kv, hidden),
            layer + "self_attn.v_proj.weight": (kv, hidden), layer + "self_attn.o_proj.weight": (hidden, hidden),
            layer + "mlp.gate_proj.weight": (mlp, hidden), layer + "mlp.up_proj.weight": (mlp, hidden),
            layer + "mlp.down_proj.weight": (hidden, mlp),
        }  # fmt: skip
    rng = np.random.default_rng(0)
    names, weight_map = list(tensors), {}
    for shard in range(3):
        file = f"model-{shard + 1:05}-of-00003.safetensors"
        part = {name: tensors[name] for name in names[shard::3]}
        write_shard(folder / file, part, rng)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    count = sum(int(np.prod(shape)) for shape in tensors.values())
    return count, vocab * hidden


def peak_of(command):
    """Peak resident bytes of a child, which a fork of its own waits for."""
    read, write = os.pipe()
    if os.fork() == 0:
        code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        os.write(write, f"{code} {usage.ru_maxrss * 1024}".encode())
        os._exit(0)
    os.close(write)
    code, peak = os.read(read, 100).split()
    os.wait()
    if int(code):
        sys.exit(f"{' '.join(command)} failed")
    return int(peak)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lidit", required=True)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=32000)
    args = parser.parse_args()
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        count, embedding = make(folder, args.hidden, args.layers, args.vocab)
        print(f"{count / 1e6:.0f} M parameters, {2 * count / 2**30:.2f} GiB in bf16, three shards")
        print("| precision | resident weights | peak | peak / resident |\n|---|---|---|---|")
        for precision, size in [("f32", 4), ("bf16", 2)]:
            command = [args.lidit, "encode", "--model", str(folder), "--token-ids", "1,2,3", "--layer", "-1"]
            peak = peak_of([*command, "--precision", precision, "--out", str(folder / "out.safetensors")])
            resident = size * (count - embedding) + 2 * embedding
            worst = max(worst, peak / resident)
            print(f"| {precision} | {resident / 2**20:.0f} MiB | {peak / 2**20:.0f} MiB | {peak / resident:.3f} |")
    sys.exit(worst > 1.15)


if __name__ == "__main__":
    main()
