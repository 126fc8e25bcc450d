"""GGUF twins of the tiny folders, as llama.cpp's converter writes them, and one tensor of every quantised type.

    pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 safetensors==0.8.0 numpy==2.4.6
    python generate_models.py && python generate_gguf.py

`models/NAME.gguf` has the weights of `models/NAME/`, so `NAME.safetensors` are its states too. Gemma 2 is the exception:
a GGUF cannot say `query_pre_attn_scalar`, llama.cpp takes the head size; its states are `gemma2-gguf.safetensors`.
The files have no tokenizer.

`quantised.gguf` has a tensor `TYPE` [4, 512] of every type, and `quantised.safetensors` its values according to the
`gguf` package. The simple types are quantised normal numbers; the K types, which the package can only read, are random
bytes with plausible scales.
"""

import json

import gguf
import numpy as np
import torch
import transformers as hf
from generate_models import HERE, MODELS, changed, load, mean_of_layers, prompts, states
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter
from safetensors.numpy import save_file
from safetensors.torch import load_file

NAMES = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
GEMMA_NAMES = {
    **NAMES, "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def permuted(weight, heads):
    """Llama's q and k rows: neighbouring features form a rotary pair."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def llama3_factors(rope, head_dim):
    """What `rope_freqs.weight` divides the frequencies by; the converter's formula."""
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    wavelengths = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    factors = []
    for wavelength in wavelengths:
        smooth = (rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"]) / (
            rope["high_freq_factor"] - rope["low_freq_factor"]
        )
        between = 1 / ((1 - smooth) / rope["factor"] + smooth)
        factors.append(1.0 if wavelength < high else rope["factor"] if wavelength > low else between)
    return np.array(factors, np.float32)


def write_keys(writer, config, head_dim):
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_tokenizer_model("no_vocab")
    rope = config["rope_parameters"]
    if "full_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    if config["model_type"] != "gemma2":  # the converter leaves it out: always 10000
        writer.add_rope_freq_base(rope["rope_theta"])
    if config["model_type"] == "llama":
        writer.add_rope_dimension_count(head_dim)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if config["model_type"].startswith("gemma"):
        writer.add_sliding_window(config["sliding_window"])
    if config["model_type"] == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def converted(name, tensor, config):
    """A tensor's name and values in the GGUF."""
    gemma = config["model_type"].startswith("gemma")
    name, suffix = name.removeprefix("model.").rsplit(".", 1)
    block = ""
    if name.startswith("layers."):
        _, layer, name = name.split(".", 2)
        block = f"blk.{layer}."
    if config["model_type"] == "llama" and name in ("self_attn.q_proj", "self_attn.k_proj"):
        tensor = permuted(tensor, config["num_key_value_heads" if "k_proj" in name else "num_attention_heads"])
    if gemma and name.endswith("norm"):
        tensor = tensor + 1
    return f"{block}{(GEMMA_NAMES if gemma else NAMES)[name]}.{suffix}", np.ascontiguousarray(tensor)


def write_twin(name, kind):
    config = json.loads((MODELS / name / "config.json").read_text())
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    path = MODELS / f"{name}.gguf"
    writer = GGUFWriter(path, config["model_type"].removesuffix("_text"))
    write_keys(writer, config, head_dim)
    if config.get("rope_parameters", {}).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config["rope_parameters"], head_dim))
    for shard in sorted((MODELS / name).glob("*.safetensors")):
        for theirs, tensor in load_file(shard).items():
            ours, value = converted(theirs, tensor.float().numpy(), config)
            stored = kind if value.ndim > 1 else Type.F32  # the converter keeps gains and biases in f32
            data = gguf.quants.quantize(value, stored)
            assert name == "gemma2" or np.array_equal(gguf.quants.dequantize(data, stored).reshape(value.shape), value)
            writer.add_tensor(ours, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_gemma2_states():
    """Gemma 2 with llama.cpp's score scale and the weights as the GGUF rounds them."""
    config = hf.AutoConfig.from_pretrained(MODELS / "gemma2")
    model = load(hf.Gemma2ForCausalLM, MODELS / "gemma2", config=changed(config, {"query_pre_attn_scalar": config.head_dim}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    out = {}
    for i, ids in enumerate(prompts(config.vocab_size)):
        hidden = states(model, ids)
        out[f"p{i}.ids"] = ids.astype(np.int32)
        out[f"p{i}.mean"] = mean_of_layers(hidden).numpy()
        out |= {f"p{i}.hidden.{k}": state.numpy().copy() for k, state in enumerate(hidden)}
    save_file(out, HERE / "gemma2-gguf.safetensors")


SIMPLE = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
# Bytes of a K type's block of 256 values at which its f16 scales stand.
SCALES = {Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}


def write_quantised():
    rng = np.random.default_rng(11)
    writer = GGUFWriter(HERE / "quantised.gguf", "llama")
    values = {}
    for kind in [*SIMPLE, *SCALES]:
        if kind in SCALES:
            size = gguf.GGML_QUANT_SIZES[kind][1]
            data = rng.integers(0, 256, (4, 512 // 256, size), dtype=np.uint8)
            for at in SCALES[kind]:
                scale = (0.01 * rng.standard_normal((4, 2, 1))).astype(np.float16)
                data[..., at : at + 2] = scale.view(np.uint8)
            data = data.reshape(4, -1)
        else:
            data = gguf.quants.quantize(rng.standard_normal((4, 512)).astype(np.float32), kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values[kind.name] = gguf.quants.dequantize(data, kind).reshape(4, 512).astype(np.float32)
        assert np.isfinite(values[kind.name]).all()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(values, HERE / "quantised.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    kinds = {
        "llama2": Type.F32, "llama3": Type.F32, "llama-linear": Type.F16, "qwen2": Type.F16, "qwen3": Type.BF16,
        "gemma2": Type.F16, "gemma3-text": Type.F32,
    }
    for name, kind in kinds.items():
        write_twin(name, kind)
    write_gemma2_states()
    write_quantised()
    for path in [*HERE.glob("*.safetensors"), *HERE.glob("*.gguf"), *MODELS.glob("*.gguf")]:
        path.chmod(0o644)
