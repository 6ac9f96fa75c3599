"""I3D, the network whose features FVD is usually computed from (Carreira and Zisserman 2017, arXiv 1705.07750).

Inception-v1 with every filter and pool inflated in time. The tensors are named as in the PyTorch ports whose weights
are in circulation (`rgb_imagenet.pt`, `i3d_pretrained_400.pt`), so that these state dicts load. BatchNorm's epsilon is
the original's 1e-3; code that comes with the second file has 1e-5, which changes a logit by some 0.05 % of the largest.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 400  # of Kinetics
# Mixed block -> channels of its four branches: 1x1; 1x1, 3x3; 1x1, 3x3; pool, 1x1
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros around (N, C, T, H, W) as TensorFlow's SAME puts them: an odd one goes at the end. Zeros do for the pools
    too, whose inputs are never negative."""
    pad: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1]):
        total = max(k - (size % s or s), 0)
        pad += [total // 2, total - total // 2]
    return F.pad(x, pad)


class Unit(nn.Module):
    """Convolution, BatchNorm, ReLU; or the convolution alone, with a bias."""

    def __init__(self, i: int, o: int, k: int = 1, stride: int = 1, plain: bool = False):
        super().__init__()
        self.conv3d = nn.Conv3d(i, o, k, stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(o, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Pool(nn.Module):
    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """The Inception block: four branches side by side."""

    def __init__(self, i: int, widths: tuple[int, ...]):
        super().__init__()
        a, b, c, d, e, f = widths
        self.b0 = Unit(i, a)
        self.b1a, self.b1b = Unit(i, b), Unit(b, c, 3)
        self.b2a, self.b2b = Unit(i, d), Unit(d, e, 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(i, f)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class I3D(nn.Sequential):
    """(N, 3, T, 224, 224) in [-1, 1], T of 9 or more -> the 400 logits of Kinetics (N, 400), mean over time."""

    def __init__(self) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["Conv3d_1a_7x7"] = Unit(3, 64, 7, 2)
        parts["MaxPool3d_2a_3x3"] = Pool((1, 3, 3), (1, 2, 2))
        parts["Conv3d_2b_1x1"], parts["Conv3d_2c_3x3"] = Unit(64, 64), Unit(64, 192, 3)
        parts["MaxPool3d_3a_3x3"] = Pool((1, 3, 3), (1, 2, 2))
        width = 192
        for name, widths in MIXED.items():
            if name == "4b":
                parts["MaxPool3d_4a_3x3"] = Pool((3, 3, 3), (2, 2, 2))
            if name == "5b":
                parts["MaxPool3d_5a_2x2"] = Pool((2, 2, 2), (2, 2, 2))
            parts[f"Mixed_{name}"] = Mixed(width, widths)
            width = widths[0] + widths[2] + widths[4] + widths[5]
        parts["avg_pool"] = nn.AvgPool3d((2, 7, 7), 1)
        parts["logits"] = Unit(width, CLASSES, plain=True)
        super().__init__(parts)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3, 4))
