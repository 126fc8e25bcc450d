"""Reference values for `lidit-model` and `lidit-train`, from the PyTorch LI-DiT of `tests/reference/lidit_torch.py`.

    pip install torch numpy safetensors
    python tests/golden/generate.py            # all of tests/golden/model/*.safetensors and tests/golden/reference
    python tests/golden/generate.py lidit      # some of them

Each file of `model` holds `in.*`, `weight.*` (named by the parameters' paths in Rust, matrices as [in, out]), `out.*`
and `grad.*` (of the weights). Each folder of `reference` is an export with an example, as `lidit checkpoint export`
writes them. Everything is computed in f64 from f32 weights and inputs and stored as f32, except AdamW, which is torch's
own in f32. Seeds are fixed: a second run writes the same numbers.
"""

import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "reference"))
import lidit_torch as lt  # noqa: E402

OUT = HERE / "model"
D, HEADS, RATIO = 8, 2, 4


def config(**changes):
    """The smallest network with every part: `tiny` in Rust."""
    paper = dict(
        hidden_size=D, depth=2, num_heads=HEADS, mlp_ratio=RATIO, patch_size=2, in_channels=2,
        parametrization="standard", fusion="collaborative", refiner=lt.Refiner(blocks=2, attention="full", gate="adaptive"),
        context_dims=(5, 7), input_norm="rms", pooling="caption",
    )  # fmt: skip
    return lt.Config(**{**paper, **changes})


def opened(module, seed):
    """`module` in f64 with every gate open: matrices of unit gain, so that f32 keeps gradients to 1e-4, small biases."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            values /= math.sqrt(parameter[0].numel())
        else:
            values = 0.1 * values + (1 if name.endswith("gain") else 0)
        parameter.data = values.double()
    return module


# ---------------------------------------------------------------- the files


class File:
    """Collects one golden file."""

    def __init__(self, name, seed):
        self.name, self.seed, self.tensors = name, seed, {}
        self.generator = torch.Generator().manual_seed(seed)

    def module(self, module):
        self.weights = dict(opened(module, self.seed + 1000).named_parameters())
        return module

    def input(self, name, *shape):
        values = torch.randn(shape, generator=self.generator)
        self.tensors[f"in.{name}"] = values
        return values.double()

    def given(self, name, values):
        self.tensors[f"in.{name}"] = values
        return values.double() if values.is_floating_point() else values

    def output(self, name, values):
        self.tensors[f"out.{name}"] = values.detach()

    def weights_and_gradients(self, as_stored):
        for path, weight in self.weights.items():
            self.tensors[f"weight.{path}"] = as_stored(weight.detach())
            if weight.grad is not None:
                self.tensors[f"grad.{path}"] = as_stored(weight.grad)

    def save(self):
        if hasattr(self, "weights"):
            self.weights_and_gradients(lambda x: x.T if x.dim() == 2 else x)  # Rust's matrices are [in, out]
        save(self.tensors, OUT / f"{self.name}.safetensors")


def save(tensors, path):
    as_stored = {k: (v.to(torch.uint8) if v.dtype == torch.bool else v.float()) for k, v in tensors.items()}
    save_file({k: v.contiguous() for k, v in as_stored.items()}, path)


def lengths(*rows, total):
    """Rows of a mask, each true in the given (start, end)."""
    return torch.tensor([[start <= i < end for i in range(total)] for start, end in rows])


def make_attention():
    f = File("attention", 1)
    q, k, v = f.input("q", 3, 2, 5, 4), f.input("k", 3, 2, 5, 4), f.input("v", 3, 2, 5, 4)
    valid = f.given("valid", lengths((0, 5), (1, 3), (0, 0), total=5))
    causal = valid[:, None] & torch.ones(5, 5, dtype=torch.bool).tril()
    f.output("open", lt.attend(q, k, v))
    f.output("keys", lt.attend(q, k, v, valid[:, None]))
    f.output("causal", lt.attend(q, k, v, causal))
    f.save()
    f = File("self_attention", 2)
    x, valid = f.input("x", 2, 5, D), f.given("valid", lengths((0, 5), (0, 3), total=5))
    f.output("y", f.module(lt.Attention(D, HEADS))(x, x, valid[:, None]))
    f.save()
    f = File("cross_attention", 3)
    x, context = f.input("x", 2, 4, D), f.input("context", 2, 3, D)
    valid = f.given("valid", lengths((0, 2), (0, 0), total=3))
    f.output("y", f.module(lt.Attention(D, HEADS))(x, context, valid[:, None]))
    f.save()


def make_layers():
    f = File("modulation", 10)
    c, x, y = f.input("c", 2, D), f.input("x", 2, 3, D), f.input("y", 2, 3, D)
    shift, scale, gate = f.module(lt.Modulation(D))(c)
    f.output("before", lt.layer_norm(x) * (1 + scale) + shift)
    f.output("after", x + gate * y)
    f.save()
    f = File("timestep", 11)
    t = f.given("t", torch.tensor([0.0, 1.0, 37.5, 999.0]))
    f.output("sinusoids", lt.sinusoids(t, 16))
    f.output("embedding", f.module(lt.Embedder(lt.FREQUENCIES, D))(lt.sinusoids(t, lt.FREQUENCIES)))
    f.save()
    f = File("patchify", 12)
    f.output("tokens", f.module(lt.Patchify(3, 2, D))(f.input("x", 2, 3, 4, 6)))
    f.save()
    f = File("res_block", 13)
    f.output("y", f.module(lt.ResBlock(D))(f.input("x", 2, 12, D), (3, 4)))
    f.save()
    f = File("final_layer", 14)
    tokens = f.module(lt.FinalLayer(D, 12))(f.input("x", 2, 6, D), f.input("c", 2, D))
    f.output("tokens", tokens)
    f.output("image", lt.unpatchify(tokens, (2, 3), 2))
    f.save()
    f = File("block", 15)
    x, c, text = f.input("x", 2, 4, D), f.input("c", 2, D), f.input("text", 2, 3, D)
    valid = f.given("valid", lengths((0, 3), (1, 2), total=3))
    f.output("y", f.module(lt.LiDitBlock(config()))(x, c, text, valid[:, None]))
    f.save()


def make_refiners():
    for seed, (name, blocks, attention, gate) in enumerate(
        [
            ("refiner_full", 2, "full", "adaptive"),
            ("refiner_causal", 2, "causal", "adaptive"),
            ("refiner_plain", 1, "full", "none"),
        ],
        20,
    ):
        f = File(name, seed)
        x, c = f.input("x", 2, 5, D), f.input("c", 2, D)
        refiner = f.module(lt.TokenRefiner(config(refiner=lt.Refiner(blocks, attention, gate))))
        f.output("y", refiner(x, c, f.given("valid", lengths((0, 5), (0, 3), total=5))))
        f.save()
    for seed, branches in [(30, 2), (31, 3)]:
        f = File(f"collaborative_{branches}", seed)
        states = [f.input(f"x.{i}", 2, 3 + i, D) for i in range(branches)]
        cs = [f.input(f"c.{i}", 2, D) for i in range(branches)]
        valid = [f.given(f"valid.{i}", lengths((0, 3 + i), (0, 2), total=3 + i)) for i in range(branches)]
        refiner = f.module(lt.CollaborativeRefiner(config(context_dims=(1,) * branches)))
        for i, y in enumerate(refiner(states, valid, cs)):
            f.output(f"y.{i}", y)
        f.save()


def prompt(f, name, dim, valid, caption):
    """One language model's states of prompts; `valid` and `caption` are (start, end) a row."""
    total = max(end for _, end in valid)
    states = f.input(f"states.{name}", len(valid), total, dim)
    valid = f.given(f"valid.{name}", lengths(*valid, total=total))
    caption = f.given(f"caption.{name}", lengths(*caption, total=total))
    # Without a cut: the columns that Rust drops are columns that nobody may look at.
    return lt.Prompt(states, valid, caption)


def training_step(f, model, objective, prompts, shape):
    """Loss and gradients of images of which one does not count."""
    images, noise = f.input("images", *shape), f.input("noise", *shape)
    draws = f.given("draws", torch.rand(shape[0], 2, generator=f.generator))
    weights = f.given("weights", torch.tensor([1.0, 0.0, 1.0])[: shape[0]])
    x, timesteps, *_ = lt.noised(objective, images, noise, draws, lt.image_tokens(model, images))
    f.output("x", x)
    f.output("timesteps", timesteps)
    f.output("prediction", model(x, timesteps, prompts))
    loss = lt.loss(objective, model, images, noise, draws, weights, prompts)
    loss.backward()
    f.output("loss", loss[None])


def make_lidit():
    f = File("lidit", 40)
    prompts = [
        prompt(f, "0", 5, [(0, 6), (0, 4), (0, 2)], [(2, 6), (3, 4), (0, 0)]),
        prompt(f, "1", 7, [(0, 3), (0, 4), (0, 1)], [(1, 3), (1, 4), (0, 0)]),
    ]
    model = f.module(lt.LiDit(config()))
    training_step(f, model, lt.RectifiedFlow("rectified_flow", "uniform", "none", "uniform"), prompts, (3, 2, 4, 6))
    f.save()

    f = File("lidit_plain", 41)
    x, t = f.input("x", 2, 2, 4, 4), f.given("t", torch.tensor([10.0, 700.0]))
    prompts = [prompt(f, "0", 6, [(0, 5), (0, 3)], [(1, 5), (1, 3)])]
    f.output("y", f.module(lt.LiDit(plain()))(x, t, prompts))
    f.save()


def plain():
    """Every switch other than the paper's, and one language model."""
    refiner = lt.Refiner(blocks=1, attention="causal", gate="none")
    return config(
        depth=1, fusion="concatenate", refiner=refiner, context_dims=(6,), input_norm="none", pooling="all"
    )  # fmt: skip


def make_reference():
    """Exports with examples: two language models that collaborate, of two objectives, and a plain one."""
    for name, seed, network, settings in [
        ("collaborative", 80, config(input_norm="rms_clipped"), {
            "objective": {
                "kind": "epsilon", "num_timesteps": 1000,
                "schedule": {"kind": "linear", "beta_start": 1e-4, "beta_end": 0.02},
                "zero_terminal_snr": False, "density": "uniform", "shift": "none", "weighting": "uniform",
            },
            "sampler": {
                "kind": "ddim", "steps": 4, "guidance": 2.0, "guidance_interval": [0.0, 1.0], "guidance_rescale": 0.0,
            },
        }),
        ("velocity", 82, config(input_norm="none", depth=1), {
            "objective": {
                "kind": "velocity", "num_timesteps": 1000,
                "schedule": {"kind": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
                "zero_terminal_snr": True, "density": {"logit_normal": {"mean": 0.3, "std": 1.2}},
                "shift": {"resolution": {"reference_tokens": 2}}, "weighting": "uniform",
            },
            "sampler": {
                "kind": "ddim", "steps": 4, "guidance": 2.0, "guidance_interval": [0.2, 1.0], "guidance_rescale": 0.7,
            },
        }),
        ("plain", 81, plain(), {
            "objective": {
                "kind": "rectified_flow", "density": {"logit_normal": {"mean": -0.2, "std": 1.5}},
                "shift": {"constant": {"factor": 2.0}}, "weighting": "uniform",
            },
            "sampler": {
                "kind": "euler", "steps": 4, "guidance": 1.0, "guidance_interval": [0.0, 1.0], "guidance_rescale": 0.0,
            },
        }),
    ]:  # fmt: skip
        f = File(name, seed)
        rows = [(0, 6), (0, 4), (0, 2)], [(2, 6), (2, 4), (0, 0)]
        prompts = [prompt(f, str(i), dim, *rows) for i, dim in enumerate(network.context_dims)]
        empty = [(0, 2)] * 3, [(0, 0)] * 3
        empty_prompts = [prompt(f, f"empty.{i}", dim, *empty) for i, dim in enumerate(network.context_dims)]
        model, objective = f.module(lt.LiDit(network)), lt.objective_of(settings["objective"])
        training_step(f, model, objective, prompts, (3, 2, 4, 6))
        sampler = lt.Sampler(objective, **settings["sampler"])
        f.output("sampled", sampler(model, f.tensors["in.noise"].double(), prompts, empty_prompts))
        f.weights_and_gradients(lambda x: x)
        folder = HERE / "reference" / name
        model.save_export(folder, {**reference_settings(network), **settings})
        save({k: v for k, v in f.tensors.items() if not k.startswith("weight.")}, folder / "example.safetensors")


def reference_settings(network):
    """What an export says beside its network, for one that no run made."""
    return {
        "format_version": lt.FORMAT_VERSION,
        "lidit_version": "reference",
        "layout": "pytorch",
        "weights": "raw",
        "step": 0,
        "samples_seen": 0,
        "vae": "identity",
        "encoders": [
            {
                "llm": {"model": f"random-{i}", "layer": -3},
                "precision": "f32",
                "template": {
                    "format": "plain",
                    "prefix": "instruction",
                    "system_prompt": "You describe images precisely.",
                    "instruction": "Describe the image:",
                    "max_caption_tokens": 128,
                    "drop_first_token": False,
                },
                "dim": dim,
                "fingerprint": f"{i}" * 64,
            }
            for i, dim in enumerate(network.context_dims)
        ],
    }


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
    "reference": make_reference,
    "objective": make_objective,
    "adamw": make_adamw,
    "adamw_groups": make_adamw_groups,
}

if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MAKERS:
        MAKERS[name]()
