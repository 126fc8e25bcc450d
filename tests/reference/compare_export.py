"""Does PyTorch say what lidit said? Repeats the training step of an export's example.

    lidit checkpoint export RUN --out export --example
    python tests/reference/compare_export.py export

Prints relative errors (L2, over a whole tensor) of the network's input, prediction, loss and gradients, with PyTorch
in f32 and in f64, and fails where one in f64 is above 1e-4. lidit computed in f32.
"""

import sys
from pathlib import Path

import torch
from lidit_torch import LiDit, Prompt, image_tokens, loss, noised
from safetensors.torch import load_file

TOLERANCE = 1e-4


def relative(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)).item()


def errors(folder, example, dtype):
    """The relative error of each output and of each parameter's gradient."""
    model = LiDit.from_export(folder).to(dtype)

    def given(name):
        return example[f"in.{name}"].to(dtype)

    prompts = [
        Prompt(given(f"states.{i}"), example[f"in.valid.{i}"].bool(), example[f"in.caption.{i}"].bool())
        for i in range(len(model.encoders))
    ]
    images, noise, draws, weights = (given(name) for name in ("images", "noise", "draws", "weights"))
    x, timesteps, *_ = noised(model.objective, images, noise, draws, image_tokens(model, images))
    total = loss(model.objective, model, images, noise, draws, weights, prompts)
    total.backward()
    # lidit stores what the network was given and what it said; both sides get the same input.
    said = model(example["out.x"].to(dtype), example["out.timesteps"].to(dtype), prompts)
    found = {
        "x": relative(x, example["out.x"]),
        "timesteps": relative(timesteps, example["out.timesteps"]),
        "prediction": relative(said.detach(), example["out.prediction"]),
        "loss": relative(total.detach()[None], example["out.loss"]),
    }
    for name, parameter in model.named_parameters():
        expected = example[f"grad.{name}"]
        largest = max(expected.abs().max().item(), parameter.grad.abs().max().item())
        # A closed gate gives no gradient to what lies behind it: exactly none.
        found[f"grad.{name}"] = 0.0 if largest == 0 else relative(parameter.grad, expected)
    return found


def main(folder):
    example = load_file(folder / "example.safetensors")
    wide, narrow = (errors(folder, example, dtype) for dtype in (torch.float64, torch.float32))
    gradients = sorted((name for name in wide if name.startswith("grad.")), key=wide.get, reverse=True)
    print(f"{'against lidit in f32':56} {'f64':>9} {'f32':>9}")
    for name in [name for name in wide if not name.startswith("grad.")] + gradients[:5]:
        print(f"{name:56} {wide[name]:9.1e} {narrow[name]:9.1e}")
    print(f"{len(gradients)} gradients; the five that differ most are listed")
    worst = max(wide, key=wide.get)
    if not wide[worst] < TOLERANCE:
        sys.exit(f"{worst} differs by {wide[worst]:.1e}, allowed {TOLERANCE:.0e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
