"""LPIPS, a distance between images that follows human judgement (Zhang et al. 2018, arXiv 1801.03924, eq. 1).

It needs weights trained by others, of AlexNet or VGG16 and of the paper's linear layers. They are read from files
that the user names and never downloaded: state dicts only, since a TorchScript file would run code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from lab4_core.checkpoint import bare_weights, load_weights
from lab4_core.errors import Lab4Error

# torchvision's name of the network -> the layers of its `features` whose outputs count, each after its ReLU
TAPS = {"alexnet": (1, 4, 7, 9, 11), "vgg16": (3, 8, 15, 22, 29)}
CHANNELS = {"alexnet": (64, 192, 384, 256, 256), "vgg16": (64, 128, 256, 512, 512)}
SMALLEST = 32  # pixels per side: with fewer, AlexNet has nothing left to pool
EXPECTED = "expected the linear layers that the package lpips publishes (lin0.model.1.weight …), and torchvision's "
EXPECTED += "alexnet or vgg16 beside them (features.0.weight …), or both in one file"


class Lpips(nn.Module):
    """Frames in [0, 1] -> their distance, 0 for the same picture.

    net: "alexnet" or "vgg16" of torchvision; its weights and those of the linear layers are loaded by `load_lpips`.
    """

    def __init__(self, net: str):
        super().__init__()
        self.net = net
        self.features = getattr(torchvision.models, net)(weights=None).features[: TAPS[net][-1] + 1]
        self.heads = nn.ParameterList([nn.Parameter(torch.empty(1, c, 1, 1)) for c in CHANNELS[net]])

    def layers(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [0, 1] -> the features of five layers, scaled to length 1 along the channels."""
        shift, scale = (x.new_tensor(v).view(1, 3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
        x, found = (2 * x - 1 - shift) / scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in TAPS[self.net]:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    @torch.no_grad()
    def forward(self, pred: Tensor, truth: Tensor) -> Tensor:
        """(N, T, 3, H, W) twice -> (N, T). Predictions are clipped to [0, 1]. Raises `Lab4Error` for small frames."""
        if min(pred.shape[-2:]) < SMALLEST or pred.shape[2] != 3:
            raise Lab4Error(
                f"LPIPS: frames of {tuple(pred.shape[2:])}; expected 3 colours, {SMALLEST} pixels or more a side"
            )
        found = []
        x, y = pred.float().clamp(0, 1).flatten(0, 1), truth.float().flatten(0, 1)
        for a, b in zip(x.split(64), y.split(64)):
            pairs = zip(self.heads, self.layers(a), self.layers(b))
            found.append(sum(((u - v).square() * head).sum(1).mean((-2, -1)) for head, u, v in pairs))
        return torch.cat(found).view(pred.shape[:2])

    @property
    def protocol(self) -> str:
        return f"{self.net} with the linear layers of Zhang et al. 2018, predictions clipped to [0, 1], lower is better"


def load_lpips(files: Sequence[str | os.PathLike], device: torch.device | str = "cpu") -> Lpips:
    """LPIPS with the weights in these files: one with everything, or the linear layers and the network separately.

    Raises `Lab4Error` naming the files if one is missing, could run code, or holds other weights.
    """
    source = "LPIPS weights " + ", ".join(map(str, files))
    found: dict[str, Tensor] = {}
    for file in files:
        found |= bare_weights(Path(file).expanduser())
    weights = {}
    for name, value in found.items():
        if head := re.fullmatch(r"lin(\d)\.model\.1\.weight", name):
            weights[f"heads.{head[1]}"] = value
        elif layer := re.fullmatch(r"(?:net\.slice\d|features)\.(\d+\.\w+)", name):
            weights[f"features.{layer[1]}"] = value
    net = next((n for n in TAPS if _fits(weights, n)), None)
    if net is None:
        raise Lab4Error(f"{source}: {', '.join(list(found)[:3])} …; {EXPECTED}")
    with torch.device("meta"):  # VGG16 would draw 138 million random numbers, for nothing
        model = Lpips(net)
    model = model.to_empty(device="cpu")
    load_weights(model, {k: v for k, v in weights.items() if k in model.state_dict()}, source)
    if any((head < 0).any() for head in model.heads):
        raise Lab4Error(f"{source}: a linear layer with negative weights; {EXPECTED}")
    return model.to(device).eval().requires_grad_(False)


def _fits(weights: dict[str, Tensor], net: str) -> bool:
    shapes = [tuple(weights[k].shape) for i in range(5) if (k := f"heads.{i}") in weights]
    return shapes == [(1, c, 1, 1) for c in CHANNELS[net]] and "features.0.weight" in weights
