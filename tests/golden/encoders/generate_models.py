"""Tiny random models of every encoder architecture as Hugging Face folders, and their states.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python generate_models.py [NAME...]

Writes, for every NAME, `models/NAME/` and `NAME.safetensors`:

- `p{i}.ids` (i32): three prompts of 1, 6 and 60 tokens; 60 is beyond every window and every original RoPE range here.
- `p{i}.hidden.{k}` (f32, [tokens, dim]): every `hidden_states[k]`; 0 is the embedding, the last is after the final norm.
- `p{i}.mean` (f32, [tokens, dim]): the mean over k = 1..=L of `layer_norm(hidden_states[k])`, without gain and bias,
  eps 1e-5.
- `p{i}.bf16_error.{k}` (f32, scalar), for the k's that are -3 and -1: the largest relative error of a token when
  transformers itself loads the folder with `dtype=bfloat16`.

Attention is eager, everything is f32, and the weights are those of the folder (rounded ones where it stores f16 or
bf16). Gains and biases are random, so that a missing one is seen. `config.old.json` beside a `config.json` says the
same as older transformers and the hub do; NAME-old folders have the old tensor names too, and share the states.

Each `matters` is a change to the config that a careless reader would make by ignoring a key: the generator asserts that
it moves the states by more than 1 %, so that a test against them can fail.
"""

import copy
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

HERE = Path(__file__).parent
MODELS = HERE / "models"
CONFIGS = {
    config.model_type: config
    for config in (
        hf.LlamaConfig, hf.MistralConfig, hf.Qwen2Config, hf.Qwen3Config, hf.Gemma2Config, hf.Gemma3TextConfig,
        hf.T5Config, hf.models.qwen2_vl.configuration_qwen2_vl.Qwen2VLTextConfig,
        hf.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLTextConfig,
    )
}
LENGTHS = [1, 6, 60]
WINDOW = 8


@dataclass
class Model:
    """One folder: the class that writes it, its config, and how an older transformers says the same."""

    name: str
    cls: type
    config: object
    dtype: torch.dtype = torch.float32
    shards: int = 1
    old: callable = None  # new config as a dict -> what an older transformers wrote
    old_names: callable = None  # state -> the same under the hub's older names, for a folder NAME-old
    extra: callable = None  # state -> tensors that older folders hold beside the model's
    matters: list = field(default_factory=list)


def rope(kind="default", theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


def decoder(**more):
    sizes = {
        "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 128,
    }
    return {**sizes, **more}


LLAMA3_ROPE = rope(
    "llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
DEFAULT_ROPES = {"rope_parameters": rope()}


def flat_rope(config):
    """`rope_parameters` as `rope_theta` and `rope_scaling`; `dtype` as `torch_dtype`; nothing that came later."""
    parameters = config.pop("rope_parameters")
    if "rope_theta" not in parameters:  # Gemma 3: one set for each kind of layer
        config["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        parameters = parameters["full_attention"]
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters
    if dtype := config.pop("dtype", None):
        config["torch_dtype"] = dtype
    config["transformers_version"] = "4.49.0"
    for later in ("layer_types", "_sliding_window_pattern"):
        config.pop(later, None)
    if config.get("head_dim") == config["hidden_size"] // config["num_attention_heads"]:
        config.pop("head_dim")
    return config


def typed_rope(config):
    """As `flat_rope`, with the oldest key: `rope_scaling.type`."""
    config = flat_rope(config)
    config["rope_scaling"]["type"] = config["rope_scaling"].pop("rope_type")
    return config


def sliding_old(config):
    config = flat_rope(config)
    config["sliding_window"] = config["sliding_window"] or 4096
    return config


def gemma3_old(config):
    pattern = config["layer_types"].index("full_attention") + 1
    config = flat_rope(config)
    config["sliding_window_pattern"] = pattern
    return config


def decoders():
    free_head_dim = {"head_dim": 16}
    yield Model(
        "llama2", hf.LlamaForCausalLM,
        hf.LlamaConfig(**decoder(vocab_size=384, num_key_value_heads=4, rms_norm_eps=1e-5, **DEFAULT_ROPES)),
        old=flat_rope, matters=[{"rope_parameters": rope(theta=500000.0)}],
    )
    yield Model(
        "llama3", hf.LlamaForCausalLM,
        hf.LlamaConfig(**decoder(vocab_size=384, head_dim=8, rms_norm_eps=1e-5, tie_word_embeddings=True,
                                 rope_parameters=LLAMA3_ROPE)),
        shards=3, old=flat_rope, matters=[{"rope_parameters": rope(theta=500000.0)}],
    )
    yield Model(
        "llama-linear", hf.LlamaForCausalLM,
        hf.LlamaConfig(**decoder(attention_bias=True, mlp_bias=True, rope_parameters=rope("linear", factor=4.0))),
        dtype=torch.float16, old=typed_rope, matters=[DEFAULT_ROPES],
    )
    yield Model(
        "mistral", hf.MistralForCausalLM,
        hf.MistralConfig(**decoder(vocab_size=384, sliding_window=WINDOW, **free_head_dim, **DEFAULT_ROPES)),
        old=flat_rope, matters=[{"sliding_window": None}, {"sliding_window": WINDOW + 1}],
    )
    yield Model(
        "qwen2", hf.Qwen2ForCausalLM,
        hf.Qwen2Config(**decoder(rope_parameters=rope(theta=1e6))), dtype=torch.float16, old=sliding_old,
        matters=[{"rope_parameters": rope()}],
    )
    yield Model(
        "qwen2-sliding", hf.Qwen2ForCausalLM,
        hf.Qwen2Config(**decoder(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2,
                                 tie_word_embeddings=True, rope_parameters=rope(theta=1e6))),
        old=sliding_old,
        matters=[{"layer_types": ["full_attention"] * 4}, {"layer_types": ["sliding_attention"] * 4}],
    )
    yield Model(
        "qwen3", hf.Qwen3ForCausalLM,
        hf.Qwen3Config(**decoder(vocab_size=384, tie_word_embeddings=True, rope_parameters=rope(theta=1e6), **free_head_dim)),
        dtype=torch.bfloat16, old=sliding_old, matters=[{"rope_parameters": rope()}],
    )
    # Saved from the bare model, as embedding models are: names without `model.`.
    yield Model(
        "qwen3-bare", hf.Qwen3Model,
        hf.Qwen3Config(**decoder(attention_bias=True, rope_parameters=rope(theta=1e6), **free_head_dim)),
        dtype=torch.bfloat16, old=sliding_old,
    )
    yield Model(
        "gemma2", hf.Gemma2ForCausalLM,
        hf.Gemma2Config(**decoder(head_dim=16, query_pre_attn_scalar=12, sliding_window=WINDOW,
                                  attn_logit_softcapping=3.0, final_logit_softcapping=30.0, **DEFAULT_ROPES)),
        old=flat_rope,
        matters=[{"attn_logit_softcapping": 50.0}, {"query_pre_attn_scalar": 16}, {"sliding_window": 4096},
                 {"layer_types": ["full_attention", "sliding_attention"] * 2}],
    )
    yield Model(
        "gemma3-text", hf.Gemma3ForCausalLM,
        hf.Gemma3TextConfig(**decoder(
            vocab_size=384, num_hidden_layers=7, head_dim=16, query_pre_attn_scalar=16, sliding_window=WINDOW,
            layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
            rope_parameters={
                "sliding_attention": rope(theta=10000.0), "full_attention": rope("linear", 1e6, factor=8.0),
            },
        )),
        old=gemma3_old,
        matters=[{"layer_types": ["sliding_attention"] * 7}, {"layer_types": ["full_attention"] * 7},
                 {"sliding_window": 4096}, {"query_pre_attn_scalar": 32},
                 {"rope_parameters": {"sliding_attention": rope(), "full_attention": rope(theta=1e6)}},
                 {"rope_parameters": {"sliding_attention": rope("linear", factor=8.0),
                                      "full_attention": rope("linear", 1e6, factor=8.0)}}],
    )


def t5_names(state):
    """Older T5 folders hold the shared embedding under all its names, and T5 1.1 a head of its own."""
    embeddings = {f"{part}.embed_tokens.weight": state["shared.weight"].clone() for part in ("encoder", "decoder")}
    return {**embeddings, "lm_head.weight": state["shared.weight"].clone()}


def t5():
    sizes = {
        "vocab_size": 384, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 4, "num_heads": 4,
        "relative_attention_num_buckets": 16, "relative_attention_max_distance": 24, "dropout_rate": 0.1,
    }
    yield Model(
        "t5-gated", hf.T5EncoderModel, hf.T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        matters=[{"relative_attention_max_distance": 128}, {"dense_act_fn": "relu"}],
    )
    yield Model(
        "t5-relu", hf.T5ForConditionalGeneration,
        hf.T5Config(**{**sizes, "vocab_size": 96, "num_decoder_layers": 1}, feed_forward_proj="relu"),
        dtype=torch.bfloat16, extra=t5_names,
    )


def hub_names(state, language):
    """The names before transformers 4.52: the language model whole under its own prefix, or beside a `visual.`."""
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("model.")
        if name.startswith("language_model."):
            name = name.replace("language_model.", language, 1)
        elif name == "lm_head.weight":
            name = language.removesuffix("model.") + name
        elif name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
            name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
        renamed[name] = tensor
    return renamed


def nested_old(config):
    """A nested config of the hub: the text part as that model's own, without the newer keys and those at their default."""
    gemma = config["model_type"] == "gemma3"
    text = gemma3_old(config["text_config"]) if gemma else flat_rope(config["text_config"])
    defaults = CONFIGS[text["model_type"]]().to_dict()
    defaults |= {"rope_theta": 1e6 if gemma else 1e4, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
    absent = object()
    kept = {key: value for key, value in text.items() if value != defaults.get(key, absent) or key == "model_type"}
    config["text_config"] = {key: value for key, value in kept.items() if value is not None}
    config["torch_dtype"] = config.pop("dtype")
    config["vision_config"].pop("dtype", None)
    config["transformers_version"] = "4.49.0"
    return config


def qwen2_vl_old(config):
    """Qwen2-VL's hub config: the text part's keys at the top, `rope_scaling` says `mrope`."""
    text = config.pop("text_config")
    section = text["rope_parameters"]["mrope_section"]
    text = {**sliding_old(text), "rope_scaling": {"type": "mrope", "mrope_section": section}}
    text.pop("model_type")
    vision = config.pop("vision_config")
    vision.pop("dtype", None)
    config["torch_dtype"] = config.pop("dtype")
    return {**text, **config, "vision_config": {**vision, "model_type": "qwen2_vl"}, "transformers_version": "4.41.2"}


def vision_language():
    tower = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4,
    }
    images = {"image_token_index": 95}
    yield Model(
        "llava", hf.LlavaForConditionalGeneration,
        hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**tower, projection_dim=8),
            text_config=hf.LlamaConfig(**decoder(rms_norm_eps=1e-5, **DEFAULT_ROPES)),
            **images, vision_feature_layer=-1, image_seq_length=4,
        ),
        dtype=torch.bfloat16, old=nested_old, old_names=lambda state: hub_names(state, "language_model.model."),
    )
    yield Model(
        "qwen2-vl", hf.Qwen2VLForConditionalGeneration,
        hf.Qwen2VLConfig(
            text_config=decoder(rope_parameters={**rope(theta=1e6), "mrope_section": [1, 1, 2]}, bos_token_id=1,
                                eos_token_id=2),
            vision_config={"depth": 1, "embed_dim": 8, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1,
                           "patch_size": 2},
            image_token_id=95, video_token_id=94, vision_start_token_id=93, vision_end_token_id=92,
        ),
        dtype=torch.bfloat16, old=qwen2_vl_old, old_names=lambda state: hub_names(state, "model."),
    )
    yield Model(
        "gemma3-vl", hf.Gemma3ForConditionalGeneration,
        hf.Gemma3Config(
            text_config=decoder(
                num_hidden_layers=6, head_dim=16, query_pre_attn_scalar=12, sliding_window=WINDOW,
                rope_parameters={
                    "sliding_attention": rope(theta=10000.0), "full_attention": rope("linear", 1e6, factor=8.0),
                },
            ),
            vision_config=tower, mm_tokens_per_image=4, boi_token_index=93, eoi_token_index=94, **images,
        ),
        dtype=torch.bfloat16, old=nested_old, old_names=lambda state: hub_names(state, "language_model.model."),
        matters=[{"query_pre_attn_scalar": 16}, {"sliding_window": 4096}],
    )


def text_model(model):
    """The part that is a prompt encoder."""
    if isinstance(model, hf.T5PreTrainedModel):
        return model.encoder
    model = getattr(model, "model", model)
    return getattr(model, "language_model", model)


def randomise(model, seed):
    rng = np.random.default_rng(seed)
    gemma = "Gemma" in type(model).__name__
    t5 = isinstance(model, hf.T5PreTrainedModel)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            value = rng.standard_normal(tuple(tensor.shape)).astype(np.float32)
            if tensor.ndim == 1 and name.endswith("weight"):
                value = 0.3 * value + (0.0 if gemma else 1.0)
            elif tensor.ndim == 1:
                value *= 0.3
            elif "relative_attention_bias" not in name and "embed" not in name and "shared" not in name:
                value /= np.sqrt(tensor[0].numel())
                if name.endswith((".q.weight", "q_proj.weight")):
                    value *= 1.5 / np.sqrt(model.config.d_kv) if t5 else 1.5  # T5 does not scale its scores
            elif gemma:
                value *= 0.3  # multiplied by sqrt(hidden_size) again
            tensor.copy_(torch.from_numpy(value))


def states(model, ids):
    """Every hidden state [tokens, dim], in f32."""
    encoder = text_model(model)
    with torch.no_grad():
        result = encoder(input_ids=torch.from_numpy(ids.astype(np.int64))[None], output_hidden_states=True)
    hidden = [state[0].float() for state in result.hidden_states]
    assert torch.equal(hidden[-1], result.last_hidden_state[0].float())
    layers = encoder.block if hasattr(encoder, "block") else encoder.layers
    assert len(hidden) == len(layers) + 1
    return hidden


def mean_of_layers(hidden):
    normed = [torch.nn.functional.layer_norm(state, state.shape[-1:], eps=1e-5) for state in hidden[1:]]
    return torch.stack(normed).mean(0)


def relative_error(ours, theirs):
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max().item()


def load(cls, folder, dtype=torch.float32, **more):
    return cls.from_pretrained(folder, dtype=dtype, attn_implementation="eager", **more).eval()


def prompts(vocab_size):
    rng = np.random.default_rng(7)
    return [rng.integers(0, vocab_size, length) for length in LENGTHS]


def write_states(spec, model, path):
    vocab_size = text_model(model).config.vocab_size
    half = load(spec.cls, MODELS / spec.name, torch.bfloat16)
    out = {}
    for i, ids in enumerate(prompts(vocab_size)):
        hidden = states(model, ids)
        rounded = states(half, ids)
        out[f"p{i}.ids"] = ids.astype(np.int32)
        out[f"p{i}.mean"] = mean_of_layers(hidden).numpy()
        for k, state in enumerate(hidden):
            out[f"p{i}.hidden.{k}"] = state.numpy().copy()
        for k in (len(hidden) - 3, len(hidden) - 1):
            out[f"p{i}.bf16_error.{k}"] = np.array(relative_error(rounded[k], hidden[k]), np.float32)
    save_file(out, path)
    path.chmod(0o644)
    return out


def changed(config, change):
    config = copy.deepcopy(config)
    as_dict = config.to_dict()
    text = as_dict.get("text_config", as_dict)
    text.update(copy.deepcopy(change))
    return type(config).from_dict(as_dict)


def check_matters(spec, out):
    """Every change of the config must show in the last state of the longest prompt."""
    last = max(int(key.split(".")[-1]) for key in out if key.startswith("p2.hidden"))
    for change in spec.matters:
        other = load(spec.cls, MODELS / spec.name, config=changed(spec.config, change))
        error = relative_error(states(other, out["p2.ids"])[last], torch.from_numpy(out[f"p2.hidden.{last}"]))
        print(f"    without {change}: {error:.1e}")
        assert error > 1e-2, (spec.name, change)


def check_same(spec, folder, out, **more):
    """Another way to say the same model must give the same states."""
    model = load(spec.cls, folder, **more)
    for key, state in out.items():
        if ".hidden." in key:
            prompt, _, k = key.split(".")
            ours = states(model, out[f"{prompt}.ids"])[int(k)]
            assert relative_error(ours, torch.from_numpy(state)) < 1e-6, (folder, key)


def write_old_config(spec, out):
    folder = MODELS / spec.name
    config = spec.old(json.loads((folder / "config.json").read_text()))
    (folder / "config.old.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    check_same(spec, folder, out, config=type(spec.config).from_dict(copy.deepcopy(config)))


def write_old_names(spec, out):
    """A second folder with the hub's older names and config."""
    folder, source = MODELS / f"{spec.name}-old", MODELS / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    state = spec.old_names(load_file(source / "model.safetensors"))
    save_torch(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    shutil.move(source / "config.old.json", folder / "config.json")
    check_same(spec, folder, out)


def write(spec, seed):
    folder = MODELS / spec.name
    for file in folder.glob("*"):
        if file.name.startswith(("config", "model", "generation")):
            file.unlink()
    model = spec.cls(spec.config)
    randomise(model, seed)
    model = model.to(spec.dtype)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    limit = {"max_shard_size": int(size / (spec.shards - 0.5))} if spec.shards > 1 else {}
    # Transformers 5 keeps the hub's old names of a folder that it loaded; a folder from its own names is wanted too.
    model.save_pretrained(folder, save_original_format=not spec.old_names, **limit)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if spec.extra:
        state = load_file(folder / "model.safetensors")
        save_torch({**state, **spec.extra(state)}, folder / "model.safetensors", metadata={"format": "pt"})
    shards = list(folder.glob("*.safetensors"))
    assert len(shards) == spec.shards, shards
    for shard in shards:
        shard.chmod(0o644)
    model = load(spec.cls, folder)
    out = write_states(spec, model, HERE / f"{spec.name}.safetensors")
    errors = ", ".join(f"{key} {float(value):.1e}" for key, value in out.items() if "bf16" in key)
    print(f"{spec.name}: {size} B; {errors}")
    check_matters(spec, out)
    if spec.old:
        write_old_config(spec, out)
    if spec.old_names:
        write_old_names(spec, out)


def write_defaults():
    """What every architecture means by a key that its config.json leaves out; a key that is not here is derived:
    `head_dim` = hidden_size / num_attention_heads, `num_key_value_heads` = num_attention_heads."""
    kept = {
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "hidden_act", "hidden_activation", "rms_norm_eps", "tie_word_embeddings",
        "attention_bias", "mlp_bias", "use_sliding_window", "max_window_layers", "attn_logit_softcapping",
        "query_pre_attn_scalar", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "layer_norm_epsilon",
        "relative_attention_num_buckets", "relative_attention_max_distance", "feed_forward_proj",
    }
    out = {}
    for name, cls in CONFIGS.items():
        config = cls().to_dict()
        values = {key: getattr(cls, key, None) for key in kept | {"sliding_window"}}
        out[name] = {key: value for key, value in values.items() if type(value) in (bool, int, float, str)}
        if rope_parameters := config.get("rope_parameters"):
            full = rope_parameters.get("full_attention", rope_parameters)
            out[name]["rope_theta"] = full["rope_theta"]
            if "sliding_attention" in rope_parameters:
                out[name]["rope_local_base_freq"] = rope_parameters["sliding_attention"]["rope_theta"]
                out[name]["sliding_window_pattern"] = config["_sliding_window_pattern"]
    (HERE / "config_defaults.json").write_text(json.dumps(out, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write_defaults()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for seed, spec in enumerate([*decoders(), *t5(), *vision_language()]):
        if not sys.argv[1:] or spec.name in sys.argv[1:]:
            write(spec, seed)
