"""LI-DiT in PyTorch: the network that `lidit` trains, its objectives and its samplers, for people who read Python.

    pip install torch safetensors
    from lidit_torch import LiDit, Prompt
    model = LiDit.from_export("export")                  # what `lidit checkpoint export RUN --out export` wrote
    prediction = model(x, timesteps, prompts)            # one Prompt per language model, as model.config orders them
    images = model.sampler(model, noise, prompts, empty_prompts)

Written from Ma et al., "Exploring the Role of Large Language Models in Prompt Encoding for Diffusion Models",
arXiv 2406.11831 v3, and from the documentation of the crate `lidit-model`; what the paper leaves open is decided there.
It is also where the golden files of `tests/golden` come from, and the peer in comparisons of speed.

Parameters have the names of the Rust network (`blocks.0.self_attention.query.weight`). Matrices are `[out, in]` as in
`nn.Linear`; exports are stored so. Products are computed in the type of their weight, everything else in f32 (or in
f64 when the network is f64): `model.compute_in(torch.bfloat16)` is lidit's mixed precision.
Shapes: B images of C channels, N image tokens, T text tokens, D = hidden_size.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

FORMAT_VERSION = 1
EPSILON = 1e-6  # under every root of a norm
FREQUENCIES = 256  # width of the timestep's sinusoids
MAX_FEATURE = 3.0  # largest feature that `rms_clipped` lets pass


@dataclass(frozen=True)
class Refiner:
    blocks: int
    attention: str  # "full" or "causal"
    gate: str  # "adaptive" or "none"


@dataclass(frozen=True)
class Config:
    """The tables `model` and `conditioning` of an export's config.json; every key must be given."""

    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: int
    patch_size: int
    in_channels: int
    parametrization: str | dict  # for first weights and rates; the network itself is the same
    fusion: str  # "concatenate" or "collaborative"
    refiner: Refiner
    context_dims: tuple[int, ...]  # width of each language model's states
    input_norm: str  # "rms", "rms_clipped" or "none"
    pooling: str  # "caption" or "all"

    def __post_init__(self):
        for key, value, known in [
            ("fusion", self.fusion, ("concatenate", "collaborative")),
            ("refiner.attention", self.refiner.attention, ("full", "causal")),
            ("refiner.gate", self.refiner.gate, ("adaptive", "none")),
            ("input_norm", self.input_norm, ("rms", "rms_clipped", "none")),
            ("pooling", self.pooling, ("caption", "all")),
        ]:
            if value not in known:
                raise ValueError(f"{key} is {value!r}, not one of {known}")

    @classmethod
    def of(cls, model, conditioning):
        refiner = Refiner(**model["refiner"])
        dims = tuple(conditioning["context_dims"])
        return cls(**{**model, "refiner": refiner}, **{**conditioning, "context_dims": dims})

    def tables(self):
        """The tables `model` and `conditioning`."""
        every = asdict(self)
        conditioning = {key: every.pop(key) for key in ("context_dims", "input_norm", "pooling")}
        return every, conditioning


class Prompt(NamedTuple):
    """The states of one language model for a batch of prompts (instruction and caption), padded to one length."""

    states: torch.Tensor  # [B, T, context_dim]
    valid: torch.Tensor  # [B, T], true for a real token
    caption: torch.Tensor  # [B, T], true for a token of the caption; the backbone sees no others
    cut: int = 0  # leading columns without a caption token in any row: dropped before the backbone, to save time


# ---------------------------------------------------------------- layers


def wide(x):
    """At least f32."""
    return x if x.dtype == torch.float64 else x.float()


def rms_norm(x):
    x = wide(x)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


def layer_norm(x):
    return F.layer_norm(wide(x), x.shape[-1:], eps=EPSILON)


def attend(q, k, v, visible=None):
    """q, k, v [B, H, N or T, head_dim]; visible [B, 1 or N, T] or None. A query that sees no key gets zero."""
    q, k = q.to(v.dtype), k.to(v.dtype)
    if visible is None:
        return F.scaled_dot_product_attention(q, k, v)
    any_key = visible.any(-1)[:, None, :, None]  # [B, 1, 1 or N, 1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None] | ~any_key) * any_key


class Linear(nn.Linear):
    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class RmsNorm(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(num_features))

    def forward(self, x):
        return rms_norm(x) * self.gain


class QkNorm(nn.Module):
    def __init__(self, head_dim):
        super().__init__()
        self.query, self.key = RmsNorm(head_dim), RmsNorm(head_dim)


class Attention(nn.Module):
    """Self-attention when `context` is `x`, else cross-attention; RMSNorm on the queries and keys of each head."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.head_dim = dim // num_heads
        self.query, self.key, self.value, self.output = (Linear(dim, dim) for _ in range(4))
        self.norm = QkNorm(self.head_dim)

    def forward(self, x, context, visible=None):
        q, k, v = (y.unflatten(2, (-1, self.head_dim)) for y in (self.query(x), self.key(context), self.value(context)))
        q, k = self.norm.query(q), self.norm.key(k)
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), visible)  # [B, H, N, head_dim]
        return wide(self.output(y.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    def __init__(self, dim, ratio):
        super().__init__()
        self.linear_in, self.linear_out = Linear(dim, ratio * dim), Linear(ratio * dim, dim)

    def forward(self, x):
        return wide(self.linear_out(F.gelu(self.linear_in(x), approximate="tanh")))


class Modulation(nn.Module):
    """adaLN-zero: shift, scale and gate of one sublayer from the conditioning vector."""

    def __init__(self, dim):
        super().__init__()
        self.linear = Linear(dim, 3 * dim)

    def forward(self, c):
        return wide(self.linear(F.silu(c)))[:, None].chunk(3, dim=-1)


class Gate(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear = Linear(dim, dim)

    def forward(self, c):
        return wide(self.linear(F.silu(c)))[:, None]


def modulated(x, c, modulation, sublayer):
    shift, scale, gate = modulation(c)
    return x + gate * sublayer(layer_norm(x) * (1 + scale) + shift)


class Embedder(nn.Module):
    """Linear, SiLU, Linear: of the timestep's sinusoids, and of a pooled prompt."""

    def __init__(self, num_inputs, dim):
        super().__init__()
        self.linear_in, self.linear_out = Linear(num_inputs, dim), Linear(dim, dim)

    def forward(self, x):
        return wide(self.linear_out(F.silu(self.linear_in(x))))


def sinusoids(timesteps, dim):
    """Of timesteps [B] (0..1000): cosines, then sines, of the frequencies 10000^(-i / (dim / 2))."""
    exponents = torch.arange(dim // 2, device=timesteps.device, dtype=torch.float64) / (dim // 2)
    timesteps = wide(timesteps)
    angles = timesteps[:, None] * (10000.0**-exponents).to(timesteps.dtype)
    return torch.cat([angles.cos(), angles.sin()], -1)


# ---------------------------------------------------------------- refiners


class RefinerBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim, gated = config.hidden_size, config.refiner.gate == "adaptive"
        self.attention, self.mlp = Attention(dim, config.num_heads), Mlp(dim, config.mlp_ratio)
        self.attention_gate = Gate(dim) if gated else None
        self.mlp_gate = Gate(dim) if gated else None

    def forward(self, x, c, visible):
        y = layer_norm(x)
        y = self.attention(y, y, visible)
        x = x + (y if self.attention_gate is None else self.attention_gate(c) * y)
        y = self.mlp(layer_norm(x))
        return x + (y if self.mlp_gate is None else self.mlp_gate(c) * y)


class TokenRefiner(nn.Module):
    """Frees one language model's states from the causal mask; with gates it starts as the identity."""

    def __init__(self, config):
        super().__init__()
        self.causal = config.refiner.attention == "causal"
        self.blocks = nn.ModuleList(RefinerBlock(config) for _ in range(config.refiner.blocks))

    def forward(self, x, c, valid):
        visible = valid[:, None, :]  # [B, 1, T]
        if self.causal:
            tokens = x.shape[1]
            visible = visible & torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            x = block(x, c, visible)
        return x


class CollaborativeBranch(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim = config.hidden_size
        self.cross_attention, self.mlp = Attention(dim, config.num_heads), Mlp(dim, config.mlp_ratio)
        self.cross_attention_modulation, self.mlp_modulation = Modulation(dim), Modulation(dim)

    def forward(self, x, c, others, visible):
        x = modulated(x, c, self.cross_attention_modulation, lambda y: self.cross_attention(y, others, visible))
        return modulated(x, c, self.mlp_modulation, self.mlp)


class CollaborativeRefiner(nn.Module):
    """Each language model's tokens look at the normalised tokens of all others, as they entered the block."""

    def __init__(self, config):
        super().__init__()
        self.branches = nn.ModuleList(CollaborativeBranch(config) for _ in config.context_dims)

    def forward(self, states, valid, conditioning):
        refined = []
        for i, branch in enumerate(self.branches):
            others = torch.cat([layer_norm(x) for j, x in enumerate(states) if j != i], 1)
            visible = torch.cat([v for j, v in enumerate(valid) if j != i], 1)[:, None]
            refined.append(branch(states[i], conditioning[i], others, visible))
        return refined


class PromptBranch(nn.Module):
    """What one language model has of its own."""

    def __init__(self, config, context_dim):
        super().__init__()
        self.projection = Linear(context_dim, config.hidden_size)
        self.pooled = Embedder(context_dim, config.hidden_size)
        self.refiner = TokenRefiner(config)
        self.input_norm, self.pooling = config.input_norm, config.pooling

    def forward(self, prompt, time):
        """The refined tokens [B, T, D], the pooled prompt [B, D], and what steers the refiner [B, D]."""
        states = wide(prompt.states)
        if self.input_norm != "none":
            states = rms_norm(states)
        if self.input_norm == "rms_clipped":
            states = rms_norm(states.clamp(-MAX_FEATURE, MAX_FEATURE))
        mask = (prompt.caption if self.pooling == "caption" else prompt.valid).to(states.dtype)
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)  # [B, context_dim]
        pooled = self.pooled(mean)
        steer = time + pooled
        return self.refiner(wide(self.projection(states)), steer, prompt.valid), pooled, steer


# ---------------------------------------------------------------- the backbone


class Patchify(nn.Module):
    def __init__(self, in_channels, patch_size, dim):
        super().__init__()
        self.patch_size = patch_size
        self.linear = Linear(in_channels * patch_size**2, dim)

    def forward(self, x):
        patches = F.unfold(x, self.patch_size, stride=self.patch_size)  # [B, C * p * p, N]
        return wide(self.linear(patches.transpose(1, 2)))  # [B, N, D]


def unpatchify(tokens, grid, patch_size):
    """[B, h * w, C * p * p] to [B, C, h * p, w * p]."""
    size = [patch_size * side for side in grid]
    return F.fold(tokens.transpose(1, 2), size, patch_size, stride=patch_size)


class Conv3x3(nn.Conv2d):
    def __init__(self, dim):
        super().__init__(dim, dim, 3, padding=1)

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class ResBlock(nn.Module):
    """The only source of position: two convolutions with zero padding on the grid of image tokens."""

    def __init__(self, dim):
        super().__init__()
        self.conv_in, self.conv_out = Conv3x3(dim), Conv3x3(dim)

    def forward(self, x, grid):
        y = layer_norm(x).transpose(1, 2).unflatten(2, grid)  # [B, D, h, w]
        y = self.conv_out(F.silu(self.conv_in(y)))
        return x + wide(y.flatten(2).transpose(1, 2))


class LiDitBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim, heads = config.hidden_size, config.num_heads
        self.self_attention, self.cross_attention = Attention(dim, heads), Attention(dim, heads)
        self.mlp = Mlp(dim, config.mlp_ratio)
        self.self_attention_modulation, self.cross_attention_modulation = Modulation(dim), Modulation(dim)
        self.mlp_modulation = Modulation(dim)

    def forward(self, x, c, text, visible):
        x = modulated(x, c, self.self_attention_modulation, lambda y: self.self_attention(y, y))
        x = modulated(x, c, self.cross_attention_modulation, lambda y: self.cross_attention(y, text, visible))
        return modulated(x, c, self.mlp_modulation, self.mlp)


class FinalLayer(nn.Module):
    def __init__(self, dim, num_outputs):
        super().__init__()
        self.modulation, self.linear = Linear(dim, 2 * dim), Linear(dim, num_outputs)

    def forward(self, x, c):
        shift, scale = wide(self.modulation(F.silu(c)))[:, None].chunk(2, dim=-1)
        return wide(self.linear(layer_norm(x) * (1 + scale) + shift))


class LiDit(nn.Module):
    """Refiners and backbone: noisy image, timestep and the language models' states in, prediction out.

    A new one has PyTorch's random weights; lidit's own initialisation, with closed gates, is in `initialize.rs`.
    """

    def __init__(self, config):
        super().__init__()
        dim = config.hidden_size
        self.config = config
        self.timestep = Embedder(FREQUENCIES, dim)
        self.encoders = nn.ModuleList(PromptBranch(config, context_dim) for context_dim in config.context_dims)
        self.collaborative = CollaborativeRefiner(config) if config.fusion == "collaborative" else None
        self.patchify = Patchify(config.in_channels, config.patch_size, dim)
        self.res_block = ResBlock(dim)
        self.blocks = nn.ModuleList(LiDitBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(dim, config.in_channels * config.patch_size**2)

    def encode(self, timesteps, prompts):
        """The conditioning vector [B, D], the captions' tokens side by side [B, T, D], and which of them are real."""
        time = self.timestep(sinusoids(timesteps, FREQUENCIES))
        branches = [branch(prompt, time) for branch, prompt in zip(self.encoders, prompts, strict=True)]
        refined, pooled, steering = map(list, zip(*branches))
        if self.collaborative is not None:
            refined = self.collaborative(refined, [prompt.valid for prompt in prompts], steering)
        text = layer_norm(torch.cat([x[:, prompt.cut :] for x, prompt in zip(refined, prompts)], 1))
        visible = torch.cat([prompt.caption[:, prompt.cut :] for prompt in prompts], 1)
        return time + sum(pooled), text, visible[:, None]

    def forward(self, x, timesteps, prompts):
        """x [B, C, H, W], timesteps [B] (0..1000), one Prompt per language model; the prediction is [B, C, H, W]."""
        c, text, visible = self.encode(timesteps, prompts)
        grid = [side // self.config.patch_size for side in x.shape[2:]]
        tokens = self.res_block(self.patchify(x), grid)  # [B, N, D]
        for block in self.blocks:
            tokens = block(tokens, c, text, visible)
        return unpatchify(self.final_layer(tokens, c), grid, self.config.patch_size)

    def compute_in(self, dtype):
        """Rounds all weights but the norms' gains to `dtype`, as lidit's bf16 does."""
        for name, parameter in self.named_parameters():
            if not name.endswith(".gain"):
                parameter.data = parameter.data.to(dtype)
        return self

    @classmethod
    def from_export(cls, folder):
        """The network of an export, with `objective` and `sampler` as it was trained; refuses damaged files."""
        folder = Path(folder)
        settings = json.loads((folder / "config.json").read_text())
        if settings["format_version"] != FORMAT_VERSION or settings["layout"] != "pytorch":
            raise ValueError(f"{folder}/config.json has another format_version or layout than this file reads")
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        if digest != settings["sha256"]:
            raise ValueError(f"{folder}/model.safetensors has SHA-256 {digest}, config.json says {settings['sha256']}")
        model = cls(Config.of(settings["model"], settings["conditioning"]))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        model.settings = settings
        model.objective = objective_of(settings["objective"])
        model.sampler = Sampler(model.objective, **settings["sampler"])
        return model

    def save_export(self, folder, settings):
        """Writes an export that `lidit checkpoint import` reads; `settings` as in another export's config.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.float().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        model, conditioning = self.config.tables()
        settings = {**settings, "model": model, "conditioning": conditioning, "sha256": digest}
        (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


# ---------------------------------------------------------------- objectives


class Levels(NamedTuple):
    """Noise levels of n images: `noisy = signal * picture + noise * z`; the network is told `time`, 0..1000. f64, [n]."""

    signal: torch.Tensor
    noise: torch.Tensor
    time: torch.Tensor


def per_image(values, x):
    return values.to(x)[:, None, None, None]


def draw_times(density, draws):
    """Times in [0, 1) of two uniforms an image."""
    first, second = draws.double().unbind(1)
    if density == "uniform":
        return first
    rule = density["logit_normal"]
    z = torch.sqrt(-2 * torch.log(1 - first)) * torch.cos(2 * math.pi * second)
    return torch.sigmoid(rule["mean"] + rule["std"] * z)


def shift_factor(shift, image_tokens):
    """What signal over noise is divided by, for images of so many tokens."""
    if shift == "none":
        return 1.0
    ((rule, value),) = shift.items()
    return value["factor"] if rule == "constant" else math.sqrt(image_tokens / value["reference_tokens"])


@dataclass(frozen=True)
class Diffusion:
    """DDPM's chain, level t with `signal^2 = alpha_bar_t = prod_{i <= t} (1 - beta_i)`.

    The network predicts the noise z (`epsilon`, the paper's), or `signal * z - noise * picture` (`velocity`).
    """

    kind: str
    num_timesteps: int
    schedule: dict
    zero_terminal_snr: bool
    density: str | dict
    shift: str | dict
    weighting: str | dict

    def alpha_bars(self):
        kind, steps = self.schedule["kind"], torch.arange(self.num_timesteps, dtype=torch.float64)
        if kind == "cosine":
            t = torch.arange(self.num_timesteps + 1, dtype=torch.float64) / self.num_timesteps
            f = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
            betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
        else:
            power = {"linear": 1, "scaled_linear": 2}[kind]
            start, end = (self.schedule[key] ** (1 / power) for key in ("beta_start", "beta_end"))
            betas = (start + (end - start) * steps / (self.num_timesteps - 1)) ** power
        bars = torch.cumprod(1 - betas, 0)
        if self.zero_terminal_snr:  # arXiv 2305.08891, algorithm 1
            roots = bars.sqrt()
            bars = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square()
        return bars

    def levels(self, image_tokens):
        """All levels, least noise first. A shifted level has the time at which the unshifted chain is as noisy."""
        bars = self.alpha_bars()
        times = torch.arange(self.num_timesteps, dtype=torch.float64)
        factor = shift_factor(self.shift, image_tokens)
        if factor != 1:
            angles = torch.atan2((1 - bars).sqrt(), bars.sqrt())
            bars = bars / (bars + factor**2 * (1 - bars))
            wanted = torch.atan2((1 - bars).sqrt(), bars.sqrt())
            above = torch.searchsorted(angles, wanted).clamp(1, self.num_timesteps - 1)
            share = (wanted - angles[above - 1]) / (angles[above] - angles[above - 1])
            times = above - 1 + share.clamp(0, 1)
        return Levels(bars.sqrt(), (1 - bars).sqrt(), times * 1000 / self.num_timesteps)

    def drawn(self, draws, image_tokens):
        index = (draw_times(self.density, draws) * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)
        return Levels(*(x.to(draws.device)[index] for x in self.levels(image_tokens)))

    def visited(self, steps, image_tokens):
        """The levels at which a sampler asks the network, noisiest first: even steps from the last one."""
        levels = self.levels(image_tokens)
        index = torch.tensor([round(self.num_timesteps * (steps - i) / steps) - 1 for i in range(steps)])
        return Levels(*(x[index] for x in levels))

    def target(self, images, noise, a, s):
        return noise if self.kind == "epsilon" else a * noise - s * images

    def estimates(self, x, prediction, signal, noise):
        """Picture and noise, by what the network says at a level."""
        if self.kind == "epsilon":
            return (x - noise * prediction) / signal, prediction
        return signal * x - noise * prediction, noise * x + signal * prediction

    def weights(self, levels):
        if self.weighting == "uniform":
            return torch.ones_like(levels.signal)
        snr = (levels.signal / levels.noise).square()
        clipped = snr.clamp(max=self.weighting["min_snr"]["gamma"])  # arXiv 2303.09556
        return clipped / (snr if self.kind == "epsilon" else snr + 1)


@dataclass(frozen=True)
class RectifiedFlow:
    """`signal = 1 - t`, `noise = t`; the network gets 1000 t and predicts `z - picture`."""

    kind: str
    density: str | dict
    shift: str | dict
    weighting: str

    def at(self, t, image_tokens):
        factor = shift_factor(self.shift, image_tokens)
        t = factor * t / (1 + (factor - 1) * t)
        return Levels(1 - t, t, 1000 * t)

    def drawn(self, draws, image_tokens):
        return self.at(draw_times(self.density, draws), image_tokens)

    def visited(self, steps, image_tokens):
        return self.at(torch.arange(steps, 0, -1, dtype=torch.float64) / steps, image_tokens)

    def target(self, images, noise, a, s):
        return noise - images

    def estimates(self, x, prediction, signal, noise):
        return x - noise * prediction, x + signal * prediction

    def weights(self, levels):
        return torch.ones_like(levels.signal)


def objective_of(table):
    """An export's table `objective`."""
    kinds = {"epsilon": Diffusion, "velocity": Diffusion, "rectified_flow": RectifiedFlow}
    return kinds[table["kind"]](**table)


def noised(objective, images, noise, draws, image_tokens):
    """The input [B, C, H, W], its timesteps [B], the target and the objective's weights [B]; draws [B, 2] in [0, 1)."""
    levels = objective.drawn(draws, image_tokens)
    a, s = per_image(levels.signal, images), per_image(levels.noise, images)
    target = objective.target(images, noise, a, s)
    return a * images + s * noise, levels.time.to(images), target, objective.weights(levels).to(images)


def loss(objective, model, images, noise, draws, weights, prompts):
    """The sum over images of weight times mean squared error; a training step divides by the sum of weights."""
    x, timesteps, target, own = noised(objective, images, noise, draws, image_tokens(model, images))
    error = wide(model(x, timesteps, prompts)) - target
    return (error.square().mean((1, 2, 3)) * weights * own).sum()


def image_tokens(model, images):
    return math.prod(side // model.config.patch_size for side in images.shape[2:])


# ---------------------------------------------------------------- samplers


@dataclass(frozen=True)
class Sampler:
    """DDIM without noise (eta 0) and Euler's rule, which are one: the picture and the noise that the network sees, mixed
    as the next level mixes them. lidit's `ddpm` and `dpm_solver_pp_2m` are not here: `dataclasses.replace(model.sampler,
    kind="ddim")` draws instead."""

    objective: Diffusion | RectifiedFlow
    kind: str
    steps: int
    guidance: float
    guidance_interval: tuple[float, float]  # times, 0 (clean) to 1 (noise), between which guidance is used
    guidance_rescale: float  # how far a guided prediction is scaled back to the contrast of the unguided one

    @torch.no_grad()
    def __call__(self, model, noise, prompts, empty_prompts):
        """Images [B, C, H, W] from standard normal noise; `empty_prompts` are the states of the empty caption."""
        if self.kind not in ("ddim", "euler"):
            raise ValueError(f"the sampler {self.kind} is lidit's alone: replace it by ddim or euler")
        x, levels = noise, self.objective.visited(self.steps, image_tokens(model, noise))
        signal, sigma, times = (values.tolist() for values in levels)
        for i in range(self.steps):
            prediction = self.predict(model, x, times[i], prompts, empty_prompts)
            picture, z = self.objective.estimates(x, prediction, signal[i], sigma[i])
            x = picture if i + 1 == self.steps else signal[i + 1] * picture + sigma[i + 1] * z
        return x

    def predict(self, model, x, time, prompts, empty_prompts):
        timesteps = torch.full((x.shape[0],), time, dtype=x.dtype, device=x.device)
        prompted = model(x, timesteps, prompts)
        low, high = self.guidance_interval
        if self.guidance == 1 or not low <= time / 1000 <= high:
            return prompted
        empty = model(x, timesteps, empty_prompts)
        guided = empty + self.guidance * (prompted - empty)
        deviation = [y.flatten(1).std(1)[:, None, None, None] for y in (prompted, guided)]
        rescaled = guided * (deviation[0] / deviation[1])
        return self.guidance_rescale * rescaled + (1 - self.guidance_rescale) * guided
