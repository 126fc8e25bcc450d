"""What EfficientNet-lite0 sees, computed by efficientnet_lite_pytorch with weights that a formula makes.

    pip install torch efficientnet_lite_pytorch safetensors && python generate_efficientnet.py

Writes efficientnet.safetensors: `image`, `other`, `feature.{0..3}` of `image` after blocks 0, 2, 4 and 10, and
`distance`. Also legacy.pth, as `torch.save` before 1.6 wrote it, and legacy.safetensors with the same tensors.
"""

from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

HERE = Path(__file__).parent
TAPS = [0, 2, 4, 10]


def made_up(name, shape):
    """The same numbers in every language: sines, scaled by what the parameter is."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    wave = np.sin(12.9898 * (i + 1) + 78.233 * sum(name.encode()))
    if name.endswith("running_var"):
        wave = 1 + 0.5 * wave
    elif "bn" in name:
        wave = 0.2 * wave + (1 if name.endswith("weight") else 0)
    else:
        wave = wave * 2 / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(wave.reshape(shape).astype(np.float32))


@torch.no_grad()
def main():
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.dtype == torch.float32:
            tensor.copy_(made_up(name, tuple(tensor.shape)))
    torch.manual_seed(0)
    image, other = torch.rand(2, 3, 32, 48) * 2 - 1, torch.rand(2, 3, 32, 48) * 2 - 1
    tensors = {"image": image, "other": other}
    a, b = features(model, image), features(model, other)
    tensors |= {f"feature.{i}": x.contiguous() for i, x in enumerate(a)}
    unit = lambda x: x / (x.pow(2).sum(1, keepdim=True) + 1e-10).sqrt()
    tensors["distance"] = sum((unit(x) - unit(y)).pow(2).sum(1).mean((1, 2)) for x, y in zip(a, b))
    save_file(tensors, HERE / "efficientnet.safetensors")

    # A transposed tensor shares its storage; counters are whole numbers.
    matrix = torch.randn(3, 4)
    legacy = {"matrix": matrix, "transposed": matrix.t(), "row": matrix[1], "counter": torch.tensor(7)}
    torch.save(legacy, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file({k: v.clone().contiguous() for k, v in legacy.items() if k != "counter"}, HERE / "legacy.safetensors")


def features(model, images):
    """As TensorFlow's lite models take pictures: (byte - 127) / 128."""
    x = model._swish(model._bn0(model._conv_stem((images * 127.5 + 0.5) / 128)))
    found = []
    for index, block in enumerate(model._blocks):
        x = block(x)
        if index in TAPS:
            found.append(x)
    return found


main()
