"""Reference values for `lidit-model`, from an independent PyTorch implementation of docs' LI-DiT.

    pip install torch numpy safetensors
    python tests/golden/generate.py            # all of tests/golden/model/*.safetensors
    python tests/golden/generate.py lidit      # one of them

Each file holds `in.*`, `weight.*` (named by the parameters' paths in Rust, matrices as [in, out]), `out.*` and
`grad.*` (of the weights). Everything is computed in f64 from f32 weights and inputs and stored as f32, except AdamW,
which is torch's own in f32. Seeds are fixed: a second run writes the same numbers.
"""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = Path(__file__).parent / "model"
D, HEADS, RATIO, EPS = 8, 2, 4, 1e-6


class Weights(dict):
    """Random weights, made when a forward pass first asks for them."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def get(self, path, *shape):
        if path not in self:
            values = 0.3 * torch.randn(shape, generator=self.generator)
            if path.endswith("gain"):
                values += 1.0
            self[path] = values.double().requires_grad_()
        return self[path]


class Scope:
    """A view of the weights below one path."""

    def __init__(self, weights, prefix=""):
        self.weights, self.prefix = weights, prefix

    def __getitem__(self, name):
        return Scope(self.weights, f"{self.prefix}{name}.")

    def get(self, name, *shape):
        return self.weights.get(self.prefix + name, *shape)

    def linear(self, name, x, out):
        weight = self[name].get("weight", x.shape[-1], out)
        return F.linear(x, weight.T, self[name].get("bias", out))


# ---------------------------------------------------------------- the network


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def attend(q, k, v, visible=None):
    """q, k, v [B, H, N or T, d]; visible [B, 1 or N, T] or None. A query without keys gets zero."""
    if visible is None:
        return F.scaled_dot_product_attention(q, k, v)
    visible = visible.expand(-1, q.shape[2], -1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None] | ~visible.any(-1)[:, None, :, None])
    return out * visible.any(-1)[:, None, :, None]


def attention_layer(w, x, context, visible=None):
    def heads(y):
        return y.reshape(*y.shape[:2], HEADS, -1).transpose(1, 2)

    q, k, v = (heads(w.linear(name, y, D)) for name, y in [("query", x), ("key", context), ("value", context)])
    q = F.rms_norm(q, q.shape[-1:], w["norm"]["query"].get("gain", D // HEADS), EPS)
    k = F.rms_norm(k, k.shape[-1:], w["norm"]["key"].get("gain", D // HEADS), EPS)
    y = attend(q, k, v, visible)
    return w.linear("output", y.transpose(1, 2).flatten(2), D)


def mlp(w, x):
    return w.linear("linear_out", F.gelu(w.linear("linear_in", x, RATIO * D), approximate="tanh"), D)


def modulation(w, c):
    return w.linear("linear", F.silu(c), 3 * D)[:, None].chunk(3, dim=-1)


def modulated(w, name, x, c, sublayer):
    shift, scale, gate = modulation(w[f"{name}_modulation"], c)
    return x + gate * sublayer(norm(x) * (1 + scale) + shift)


def block(w, x, c, text, text_visible):
    x = modulated(w, "self_attention", x, c, lambda y: attention_layer(w["self_attention"], y, y))
    x = modulated(
        w, "cross_attention", x, c, lambda y: attention_layer(w["cross_attention"], y, text, text_visible[:, None])
    )
    return modulated(w, "mlp", x, c, lambda y: mlp(w["mlp"], y))


def refiner(w, x, c, valid, blocks, causal, gated):
    visible = valid[:, None, :]
    if causal:
        visible = visible & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    for i in range(blocks):
        b = w[f"blocks.{i}"]

        def gate(name):
            return b[name].linear("linear", F.silu(c), D)[:, None] if gated else 1.0

        y = norm(x)
        x = x + gate("attention_gate") * attention_layer(b["attention"], y, y, visible)
        x = x + gate("mlp_gate") * mlp(b["mlp"], norm(x))
    return x


def collaborative(w, states, valid, cs):
    out = []
    for i, (x, c) in enumerate(zip(states, cs)):
        b = w[f"branches.{i}"]
        others = torch.cat([norm(s) for j, s in enumerate(states) if j != i], 1)
        visible = torch.cat([v for j, v in enumerate(valid) if j != i], 1)[:, None]
        x = modulated(b, "cross_attention", x, c, lambda y: attention_layer(b["cross_attention"], y, others, visible))
        out.append(modulated(b, "mlp", x, c, lambda y: mlp(b["mlp"], y)))
    return out


def sinusoids(t, dim):
    frequencies = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def two_layers(w, x):
    return w.linear("linear_out", F.silu(w.linear("linear_in", x, D)), D)


def patchify(w, x, p):
    weight = w["linear"].get("weight", x.shape[1] * p * p, D).T.reshape(D, x.shape[1], p, p)
    return F.conv2d(x, weight, w["linear"].get("bias", D), stride=p).flatten(2).transpose(1, 2)


def res_block(w, x, h, grid_w):
    def conv(name, y):
        return F.conv2d(y, w[name].get("weight", D, D, 3, 3), w[name].get("bias", D), padding=1)

    grid = norm(x).transpose(1, 2).unflatten(2, (h, grid_w))
    return x + conv("conv_out", F.silu(conv("conv_in", grid))).flatten(2).transpose(1, 2)


def final_layer(w, x, c, outputs):
    shift, scale = w.linear("modulation", F.silu(c), 2 * D)[:, None].chunk(2, dim=-1)
    return w.linear("linear", norm(x) * (1 + scale) + shift, outputs)


def unpatchify(tokens, h, grid_w, p):
    return F.fold(tokens.transpose(1, 2), (h * p, grid_w * p), p, stride=p)


def lidit(w, x, t, prompts, *, depth, blocks, causal, gated, joined, rms, pool_caption, p):
    """prompts: one (states, valid, caption) per LLM."""
    time = two_layers(w["timestep"], sinusoids(t, 256))
    c, refined, steering = time, [], []
    for i, (states, valid, caption) in enumerate(prompts):
        e = w[f"encoders.{i}"]
        if rms:
            states = F.rms_norm(states, states.shape[-1:], eps=EPS)
        mask = (caption if pool_caption else valid).double()
        pooled = two_layers(e["pooled"], (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
        c = c + pooled
        steering.append(time + pooled)
        refined.append(
            refiner(e["refiner"], e.linear("projection", states, D), time + pooled, valid, blocks, causal, gated)
        )
    if joined:
        refined = collaborative(w["collaborative"], refined, [valid for _, valid, _ in prompts], steering)
    # Cutting the instruction by the mask alone: the columns that Rust drops are columns nobody may look at.
    text = norm(torch.cat(refined, 1))
    visible = torch.cat([caption for _, _, caption in prompts], 1)
    h, grid_w = x.shape[2] // p, x.shape[3] // p
    tokens = res_block(w["res_block"], patchify(w["patchify"], x, p), h, grid_w)
    for i in range(depth):
        tokens = block(w[f"blocks.{i}"], tokens, c, text, visible)
    return unpatchify(final_layer(w["final_layer"], tokens, c, x.shape[1] * p * p), h, grid_w, p)


# ---------------------------------------------------------------- the files


class File:
    """Collects one golden file."""

    def __init__(self, name, seed):
        self.name, self.tensors = name, {}
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = Weights(seed + 1000)
        self.w = Scope(self.weights)

    def input(self, name, *shape):
        values = torch.randn(shape, generator=self.generator)
        self.tensors[f"in.{name}"] = values
        return values.double()

    def given(self, name, values):
        self.tensors[f"in.{name}"] = values
        return values.double() if values.is_floating_point() else values

    def output(self, name, values):
        self.tensors[f"out.{name}"] = values.detach()

    def save(self, grads=()):
        for path, value in self.weights.items():
            self.tensors[f"weight.{path}"] = value.detach()
        for path in grads:
            self.tensors[f"grad.{path}"] = self.weights[path].grad
        as_stored = {k: (v.to(torch.uint8) if v.dtype == torch.bool else v.float()) for k, v in self.tensors.items()}
        save_file({k: v.contiguous() for k, v in as_stored.items()}, OUT / f"{self.name}.safetensors")


def lengths(*rows, total):
    """Rows of a mask, each true in the given (start, end)."""
    return torch.tensor([[start <= i < end for i in range(total)] for start, end in rows])


def make_attention():
    f = File("attention", 1)
    q, k, v = f.input("q", 3, 2, 5, 4), f.input("k", 3, 2, 5, 4), f.input("v", 3, 2, 5, 4)
    valid = f.given("valid", lengths((0, 5), (1, 3), (0, 0), total=5))
    causal = valid[:, None] & torch.ones(5, 5, dtype=torch.bool).tril()
    f.output("open", attend(q, k, v))
    f.output("keys", attend(q, k, v, valid[:, None]))
    f.output("causal", attend(q, k, v, causal))
    f.save()
    f = File("self_attention", 2)
    x, valid = f.input("x", 2, 5, D), f.given("valid", lengths((0, 5), (0, 3), total=5))
    f.output("y", attention_layer(f.w, x, x, valid[:, None]))
    f.save()
    f = File("cross_attention", 3)
    x, context = f.input("x", 2, 4, D), f.input("context", 2, 3, D)
    valid = f.given("valid", lengths((0, 2), (0, 0), total=3))
    f.output("y", attention_layer(f.w, x, context, valid[:, None]))
    f.save()


def make_layers():
    f = File("modulation", 10)
    c, x, y = f.input("c", 2, D), f.input("x", 2, 3, D), f.input("y", 2, 3, D)
    shift, scale, gate = modulation(f.w, c)
    f.output("before", x * (1 + scale) + shift)
    f.output("after", x + gate * y)
    f.save()
    f = File("timestep", 11)
    t = f.given("t", torch.tensor([0.0, 1.0, 37.5, 999.0]))
    f.output("sinusoids", sinusoids(t, 16))
    f.output("embedding", two_layers(f.w, sinusoids(t, 256)))
    f.save()
    f = File("patchify", 12)
    f.output("tokens", patchify(f.w, f.input("x", 2, 3, 4, 6), 2))
    f.save()
    f = File("res_block", 13)
    f.output("y", res_block(f.w, f.input("x", 2, 12, D), 3, 4))
    f.save()
    f = File("final_layer", 14)
    tokens = final_layer(f.w, f.input("x", 2, 6, D), f.input("c", 2, D), 12)
    f.output("tokens", tokens)
    f.output("image", unpatchify(tokens, 2, 3, 2))
    f.save()
    f = File("block", 15)
    x, c, text = f.input("x", 2, 4, D), f.input("c", 2, D), f.input("text", 2, 3, D)
    f.output("y", block(f.w, x, c, text, f.given("valid", lengths((0, 3), (1, 2), total=3))))
    f.save()


def make_refiners():
    for seed, (name, blocks, causal, gated) in enumerate(
        [("refiner_full", 2, False, True), ("refiner_causal", 2, True, True), ("refiner_plain", 1, False, False)], 20
    ):
        f = File(name, seed)
        x, c = f.input("x", 2, 5, D), f.input("c", 2, D)
        f.output("y", refiner(f.w, x, c, f.given("valid", lengths((0, 5), (0, 3), total=5)), blocks, causal, gated))
        f.save()
    for seed, branches in [(30, 2), (31, 3)]:
        f = File(f"collaborative_{branches}", seed)
        states = [f.input(f"x.{i}", 2, 3 + i, D) for i in range(branches)]
        cs = [f.input(f"c.{i}", 2, D) for i in range(branches)]
        valid = [f.given(f"valid.{i}", lengths((0, 3 + i), (0, 2), total=3 + i)) for i in range(branches)]
        for i, y in enumerate(collaborative(f.w, states, valid, cs)):
            f.output(f"y.{i}", y)
        f.save()


def make_lidit():
    f = File("lidit", 40)
    images, noise = f.input("images", 3, 2, 4, 6), f.input("noise", 3, 2, 4, 6)
    t = f.given("t", torch.tensor([0.125, 0.5, 0.875]))
    prompts = [
        (f.input("states.0", 3, 6, 5), lengths((0, 6), (0, 4), (0, 2), total=6), lengths((2, 6), (3, 4), (0, 0), total=6)),
        (f.input("states.1", 3, 4, 7), lengths((0, 3), (0, 4), (0, 1), total=4), lengths((1, 3), (1, 4), (0, 0), total=4)),
    ]
    for i, (_, valid, caption) in enumerate(prompts):
        f.given(f"valid.{i}", valid)
        f.given(f"caption.{i}", caption)
    mix = t[:, None, None, None]
    y = lidit(
        f.w, (1 - mix) * images + mix * noise, 1000 * t, prompts,
        depth=2, blocks=2, causal=False, gated=True, joined=True, rms=True, pool_caption=True, p=2,
    )  # fmt: skip
    weights = f.given("weights", torch.tensor([1.0, 0.0, 1.0]))
    loss = (((y - (noise - images)) ** 2).mean((1, 2, 3)) * weights).sum()
    loss.backward()
    f.output("y", y)
    f.output("loss", loss[None])
    f.save(list(f.weights))

    f = File("lidit_plain", 41)
    x, t = f.input("x", 2, 2, 4, 4), f.given("t", torch.tensor([10.0, 700.0]))
    valid = f.given("valid", lengths((0, 5), (0, 3), total=5))
    caption = f.given("caption", lengths((1, 5), (1, 3), total=5))
    prompts = [(f.input("states", 2, 5, 6), valid, caption)]
    y = lidit(
        f.w, x, t, prompts,
        depth=1, blocks=1, causal=True, gated=False, joined=False, rms=False, pool_caption=False, p=2,
    )  # fmt: skip
    f.output("y", y)
    f.save()


def toy_network(x, t):
    """Something that depends on both arguments."""
    return 0.5 * x + 0.002 * t[:, None, None, None] - 0.3


def alpha_bars():
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def make_objective():
    f = File("objective", 50)
    images, noise = f.input("images", 4, 1, 2, 3), f.input("noise", 4, 1, 2, 3)
    draws = f.given("draws", torch.rand(4, 2, generator=f.generator))
    weights = f.given("weights", torch.tensor([1.0, 1.0, 0.0, 1.0]))

    def record(name, t, signal, sigma, target, importance=1.0):
        x = signal[:, None, None, None] * images + sigma[:, None, None, None] * noise
        error = ((toy_network(x, t) - target) ** 2).mean((1, 2, 3))
        f.output(f"{name}.t", t)
        f.output(f"{name}.x", x)
        f.output(f"{name}.each", error)
        f.output(f"{name}.loss", (error * weights * importance).sum()[None])

    step = (draws[:, 0] * 1000).long()
    a = alpha_bars()[step]
    record("epsilon", step.double(), a.sqrt(), (1 - a).sqrt(), noise)
    u = draws[:, 0]
    record("uniform", 1000 * u, 1 - u, u, noise - images)
    z = torch.sqrt(-2 * torch.log(1 - draws[:, 0])) * torch.cos(2 * math.pi * draws[:, 1])
    t = torch.sigmoid(-0.2 + 1.5 * z)
    record("logit_normal", 1000 * t, 1 - t, t, noise - images)
    # Four times the tokens that need no shift.
    shifted = 2 * t / (1 + t)
    record("shifted", 1000 * shifted, 1 - shifted, shifted, noise - images)
    step = (t * 1000).long()
    a = alpha_bars()[step]
    signal, sigma = a.sqrt(), (1 - a).sqrt()
    target = signal[:, None, None, None] * noise - sigma[:, None, None, None] * images
    snr = a / (1 - a)
    record("velocity", step.double(), signal, sigma, target, snr.clamp(max=0.5) / (snr + 1))
    f.save()


def make_adamw():
    """`in.hyper` is [lr, beta1, beta2, eps, weight_decay]; `out.params.N` is the parameter after step N (from 1)."""
    f = File("adamw", 70)
    hyper = [1e-2, 0.9, 0.95, 1e-8, 0.1]
    f.given("hyper", torch.tensor(hyper))
    param = torch.nn.Parameter(f.input("param", 24).float())
    optimizer = torch.optim.AdamW([param], lr=hyper[0], betas=tuple(hyper[1:3]), eps=hyper[3], weight_decay=hyper[4])
    for step in range(1, 4):
        param.grad = f.input(f"grad.{step}", 24).float() * 0.1
        f.tensors[f"in.grad.{step}"] = param.grad.clone()
        optimizer.step()
        f.output(f"params.{step}", param.clone())
        f.output(f"exp_avg.{step}", optimizer.state[param]["exp_avg"].clone())
        f.output(f"exp_avg_sq.{step}", optimizer.state[param]["exp_avg_sq"].clone())
    f.save()


def make_adamw_groups():
    """Parameter groups of three elements each, in lidit's order, under muP at twice the base width with
    `refiner_lr_ratio = 0.25`; `in.hyper` as in `make_adamw`, the rate being the backbone's at the base width."""
    f = File("adamw_groups", 71)
    lr, decay = 1e-2, 0.1
    hyper = [lr, 0.9, 0.95, 1e-8, decay]
    f.given("hyper", torch.tensor(hyper))
    groups = [  # rate, weight decay
        (lr / 2, 2 * decay),  # backbone, hidden
        (lr, decay),  # backbone, input
        (lr / 2, 2 * decay),  # backbone, output
        (lr / 2, 0.0),  # backbone, modulation
        (lr, 0.0),  # backbone, vector
        (lr / 8, 2 * decay),  # refiners, hidden
        (lr / 4, decay),  # refiners, input
        (lr / 8, 0.0),  # refiners, modulation
        (lr / 4, 0.0),  # refiners, vector
    ]
    params = [torch.nn.Parameter(part.clone()) for part in f.input("param", 3 * len(groups)).float().split(3)]
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": rate, "weight_decay": d} for p, (rate, d) in zip(params, groups)],
        betas=tuple(hyper[1:3]),
        eps=hyper[3],
    )
    for step in range(1, 4):
        grad = f.input(f"grad.{step}", 3 * len(groups)).float() * 0.1
        f.tensors[f"in.grad.{step}"] = grad.clone()
        for p, g in zip(params, grad.split(3)):
            p.grad = g.clone()
        optimizer.step()
        f.output(f"params.{step}", torch.cat([p.detach() for p in params]))
    f.save()


MAKERS = {
    "attention": make_attention,
    "layers": make_layers,
    "refiners": make_refiners,
    "lidit": make_lidit,
    "objective": make_objective,
    "adamw": make_adamw,
    "adamw_groups": make_adamw_groups,
}

if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MAKERS:
        MAKERS[name]()
