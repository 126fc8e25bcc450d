"""Latents and pictures of tiny random autoencoders, computed by diffusers in f32.

    pip install torch diffusers safetensors && python generate.py

Writes a folder for each autoencoder, and beside it NAME.safetensors: `image`, `mean`, `logvar`, `latents` (scaled and
shifted as diffusion models see them), `decoded`, and of a larger picture `large`, `large.mean`, `large.logvar`, and of
its unscaled mean `large.decoded`, all of them tiled with the folder's `sample_size`.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

COMMON = dict(norm_num_groups=2, sample_size=16)
MODELS = {
    # As Stable Diffusion 1 and 2.
    "four": dict(block_out_channels=[4, 8], layers_per_block=1, latent_channels=4, scaling_factor=0.18215),
    # As Stable Diffusion 3 and FLUX, with their four resolutions.
    "sixteen": dict(
        block_out_channels=[4, 4, 8, 8], layers_per_block=1, latent_channels=16, scaling_factor=1.5305,
        shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False, sample_size=32,
    ),
    "no-attention": dict(
        block_out_channels=[4, 8], layers_per_block=2, latent_channels=4, mid_block_add_attention=False,
        use_quant_conv=False,
    ),
    "bf16": dict(
        block_out_channels=[4, 6], layers_per_block=1, latent_channels=16, scaling_factor=0.3611, shift_factor=-0.1159,
        use_post_quant_conv=False,
    ),
}


def main():
    for seed, (name, options) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        count = len(options["block_out_channels"])
        blocks = dict(down_block_types=["DownEncoderBlock2D"] * count, up_block_types=["UpDecoderBlock2D"] * count)
        model = AutoencoderKL(**{**COMMON, **blocks, **options}).eval()
        randomise(model)
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        if name == "bf16":
            model.to(torch.bfloat16).save_pretrained(folder)
        elif name == "no-attention":
            model.to(torch.float16).save_pretrained(folder, max_shard_size="8KB")
        elif name == "sixteen":
            model.save_pretrained(folder / "vae")
            folder = folder / "vae"
        else:
            model.save_pretrained(folder)
        model = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
        save_file(golden(model), HERE / f"{name}.safetensors")
    old_names()


def randomise(model):
    """Every parameter counts: gains are not 1, offsets not 0."""
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.data = 1 + 0.3 * torch.randn_like(parameter)
        elif name.endswith("bias"):
            parameter.data = 0.2 * torch.randn_like(parameter)
        else:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn_like(parameter) * (1.5 / fan_in) ** 0.5


@torch.no_grad()
def golden(model):
    image = picture(2, 16, 24)
    posterior = model.encode(image).latent_dist
    shift = model.config.shift_factor or 0.0
    latents = (posterior.mean - shift) * model.config.scaling_factor
    decoded = model.decode(latents / model.config.scaling_factor + shift).sample
    # The last tile of each row is small, and the last row lies in the overlap of the one above.
    factor = 2 ** (len(model.config.block_out_channels) - 1)
    tile = model.config.sample_size
    large = picture(1, tile + tile // 4, tile * 2 - factor)
    model.enable_tiling()
    tiled = model.encode(large).latent_dist
    tiled_decoded = model.decode(tiled.mean).sample
    tensors = {
        "image": image, "mean": posterior.mean, "logvar": posterior.logvar, "latents": latents, "decoded": decoded,
        "large": large, "large.mean": tiled.mean, "large.logvar": tiled.logvar, "large.decoded": tiled_decoded,
    }
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def picture(batch, height, width):
    """Waves and noise, in [-1, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    phase = torch.rand(batch, 3, 1, 1) * 6
    return (torch.sin(x + 2 * y + phase) * 0.6 + torch.randn(batch, 3, height, width) * 0.2).clamp(-1, 1)


def old_names():
    """`four` as diffusers before 0.17 wrote it."""
    folder = HERE / "old-names"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = json.loads((HERE / "four/config.json").read_text())
    added = {
        "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast", "use_quant_conv",
        "use_post_quant_conv", "mid_block_add_attention",
    }
    config = {key: value for key, value in config.items() if key not in added}
    (folder / "config.json").write_text(json.dumps(config | {"_diffusers_version": "0.2.2"}, indent=2) + "\n")
    tensors = {}
    for name, tensor in load_file(HERE / "four/diffusion_pytorch_model.safetensors").items():
        for new, old in OLD.items():
            name = name.replace(f".{new}.", f".{old}.")
        tensors[name] = tensor
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    AutoencoderKL.from_pretrained(folder)


main()
