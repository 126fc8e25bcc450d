"""Captions a second of `lidit bench encode` and of transformers on the same prompts, in turns, in one run.

    pip install torch transformers gguf numpy
    python tests/peers/bench_encode.py --lidit target/release/lidit [--precision f32|bf16] [--captions 512] [--rounds 3]

The peer is what a user would write: AutoModel with SDPA attention, batches of 32 sorted by length, padded on the right,
`output_hidden_states=True`, the whole prompt each time. Its weights are the same GGUF file's, dequantised. Two threads
for both.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def field(reader, key):
    return reader.fields[key].contents()


def load(path, dtype):
    reader = gguf.GGUFReader(path)
    weights = {
        t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).copy())
        for t in reader.tensors
    }
    heads, kv_heads = field(reader, "llama.attention.head_count"), field(reader, "llama.attention.head_count_kv")
    layers = field(reader, "llama.block_count")
    config = LlamaConfig(
        vocab_size=weights["token_embd.weight"].shape[0], hidden_size=field(reader, "llama.embedding_length"),
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=field(reader, "llama.feed_forward_length"),
        rms_norm_eps=field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field(reader, "llama.rope.freq_base")},
        attn_implementation="sdpa",
    )  # fmt: skip
    state = {"embed_tokens.weight": weights["token_embd.weight"], "norm.weight": weights["output_norm.weight"]}
    for layer in range(layers):
        for theirs, ours in NAMES.items():
            weight = weights[f"blk.{layer}.{ours}.weight"]
            if "q_proj" in theirs or "k_proj" in theirs:
                n = heads if "q_proj" in theirs else kv_heads
                rows, columns = weight.shape
                weight = weight.reshape(n, rows // n // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
            state[f"layers.{layer}.{theirs}.weight"] = weight
    model = LlamaModel(config)
    model.load_state_dict(state)
    return model.eval().to(dtype)


@torch.inference_mode()
def encode(model, prompts, batch=32):
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    states = [None] * len(prompts)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(prompts[i]) for i in chosen)
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros(len(chosen), width, dtype=torch.long)
        for row, i in enumerate(chosen):
            ids[row, : len(prompts[i])] = torch.tensor(prompts[i])
            mask[row, : len(prompts[i])] = 1
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states[-3]
        for row, i in enumerate(chosen):
            states[i] = hidden[row, : len(prompts[i])].float().numpy()
    return states


def ours(args, *more):
    command = [
        args.lidit, "bench", "encode", args.config, "--json", "--rounds", "1", "--captions", str(args.captions),
        "--set", "encoders.system_prompt=", "--set", f"encoders.precision={args.precision}",
        "--set", "encoders.llm=[{model=\"smollm2\",layer=-3}]", "--set", "model.fusion=concatenate", *more,
    ]  # fmt: skip
    environment = os.environ | {"RAYON_NUM_THREADS": "2"}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(answer.splitlines()[-1])["models"][0]["items_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lidit", required=True)
    parser.add_argument("--config", default=str(Path(__file__).parents[2] / "configs/run/emoji-epsilon.toml"))
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--captions", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(2)

    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "prompts.json"
        ours(args, "--prompts-out", str(dump))
        (asked,) = json.loads(dump.read_text())
    prompts = asked["ids"]
    model = load(asked["path"], torch.float32 if args.precision == "f32" else torch.bfloat16)
    encode(model, prompts[:64])
    rates = {"transformers": [], "lidit": [], "lidit --no-reuse": []}
    for _ in range(args.rounds):
        begun = time.perf_counter()
        encode(model, prompts)
        rates["transformers"].append(len(prompts) / (time.perf_counter() - begun))
        rates["lidit"].append(ours(args))
        rates["lidit --no-reuse"].append(ours(args, "--no-reuse"))
    peer = statistics.median(rates["transformers"])
    tokens = sum(map(len, prompts)) / len(prompts)
    print(f"{len(prompts)} captions, {tokens:.1f} tokens each, {args.precision}, {args.rounds} rounds in turns")
    print("| encoder | captions/s (median, spread) | ratio |\n|---|---|---|")
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.1f} ({min(values):.1f} to {max(values):.1f}) | {median / peer:.2f} x |")


if __name__ == "__main__":
    main()
