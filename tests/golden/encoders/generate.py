"""States of the tiny random LLMs, computed by transformers in f32 from the same GGUF files.

    pip install torch transformers gguf safetensors && python generate.py

Writes tiny-llama.safetensors and tiny-gemma3.safetensors: `p{i}.ids`, `p{i}.hidden.{k}` for every k of
`hidden_states`. The third prompt is longer than Gemma's window.
"""

from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import Gemma3TextConfig, Gemma3TextModel, LlamaConfig, LlamaModel

HERE = Path(__file__).parent
LLMS = HERE / "../../../datasets/fixtures/llm"
LENGTHS = [1, 6, 40]


def tensors(name):
    reader = gguf.GGUFReader(LLMS / name)
    values = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    return {name: torch.from_numpy(value.copy()) for name, value in values.items()}


def rotate_half_order(weight, heads):
    """Undoes the converter's row order (pairs side by side) for transformers (pairs half a head apart)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def llama():
    weights = tensors("tiny-llama.gguf")
    config = LlamaConfig(
        vocab_size=weights["token_embd.weight"].shape[0], hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, intermediate_size=64, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5}, attn_implementation="eager",
    )
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }
    state = renamed(weights, names)
    for name in state:
        if "q_proj" in name or "k_proj" in name:
            state[name] = rotate_half_order(state[name], 4 if "q_proj" in name else 2)
    return LlamaModel(config), state


def gemma3():
    weights = tensors("tiny-gemma3.gguf")
    config = Gemma3TextConfig(
        vocab_size=weights["token_embd.weight"].shape[0], hidden_size=48, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=96, rms_norm_eps=1e-6, sliding_window=8,
        query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention"] * 2,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        },
        attn_implementation="eager",
    )
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }
    state = renamed(weights, names)
    # GGUF stores gains as 1 + w, transformers adds the 1 itself.
    return Gemma3TextModel(config), {name: w - 1 if "norm" in name else w for name, w in state.items()}


def renamed(weights, names):
    state = {"embed_tokens.weight": weights["token_embd.weight"], "norm.weight": weights["output_norm.weight"]}
    for layer in range(4):
        for theirs, ours in names.items():
            state[f"layers.{layer}.{theirs}.weight"] = weights[f"blk.{layer}.{ours}.weight"]
    return state


def write(name, model, state):
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("rotary" in m or "embed_scale" in m for m in missing), (missing, unexpected)
    model.eval()
    rng = np.random.default_rng(7)
    out = {}
    for i, length in enumerate(LENGTHS):
        ids = rng.integers(0, state["embed_tokens.weight"].shape[0], length)
        with torch.no_grad():
            result = model(input_ids=torch.from_numpy(ids)[None], output_hidden_states=True)
        out[f"p{i}.ids"] = ids.astype(np.int32)
        for k, hidden in enumerate(result.hidden_states):
            out[f"p{i}.hidden.{k}"] = hidden[0].numpy().copy()
    save_file(out, HERE / f"{name}.safetensors")


if __name__ == "__main__":
    torch.manual_seed(0)
    write("tiny-llama", *llama())
    write("tiny-gemma3", *gemma3())
