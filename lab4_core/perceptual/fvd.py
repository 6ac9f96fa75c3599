"""Frechet video distance: how far the features of predicted clips lie from those of true ones (Unterthiner et al. 2018,
arXiv 1812.01717).

The features come from a network that others trained on Kinetics. Its weights are read from a file that the user
names and never downloaded: a state dict, since a TorchScript file would run code. Two FVDs can be compared only if
the network, the number of clips and their length are the same, so the protocol states all three.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video import r3d_18

from lab4_core.checkpoint import bare_weights, load_weights
from lab4_core.errors import Lab4Error
from lab4_core.perceptual.i3d import I3D


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between the Gaussians of two sets of features (n, d) and (m, d), n and m of 2 or more:
    |mean_a - mean_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with covariances over n - 1.

    With C = X' X of the centred features X / (n - 1)^(1/2) the last trace is the sum of the singular values of
    X_a X_b', exact and without the root of a matrix that may be singular. 0 for the same set; symmetric.
    """
    a, b = a.double(), b.double()
    if a.ndim != 2 or a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise Lab4Error(f"FVD: features {tuple(a.shape)} and {tuple(b.shape)}; expected 2 clips or more of each")
    x, y = ((v - v.mean(0)) / (len(v) - 1) ** 0.5 for v in (a, b))
    shift = (a.mean(0) - b.mean(0)).square().sum()
    cross = torch.linalg.svdvals(x @ y.T).sum()
    return max(0.0, (shift + x.square().sum() + y.square().sum() - 2 * cross).item())


@dataclass(frozen=True)
class Network:
    """What turns clips into features: how it is built, which frames it takes, and which features are used."""

    build: Callable[[], nn.Module]
    size: int  # pixels per side that frames are resized to
    mean: tuple[float, ...]  # of the three colours, in [0, 1]
    std: tuple[float, ...]
    shortest: int  # frames
    features: str


NETWORKS = {
    "I3D": Network(I3D, 224, (0.5,) * 3, (0.5,) * 3, 9, "400 logits"),
    "r3d_18": Network(r3d_18, 112, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989), 2, "512 features"),
}
EXPECTED = "expected a state dict of I3D (Conv3d_1a_7x7.conv3d.weight …, as in rgb_imagenet.pt) or of torchvision's "
EXPECTED += "r3d_18 (stem.0.weight …)"


@dataclass(frozen=True)
class Fvd:
    """The distance by one network, see `load_fvd`."""

    network: str
    model: nn.Module = field(repr=False)

    @torch.no_grad()
    def features(self, clips: Tensor) -> Tensor:
        """(N, T, 3, H, W) in [0, 1] -> (N, d) on the CPU. Raises `Lab4Error` for clips that are too short."""
        net = NETWORKS[self.network]
        if clips.shape[1] < net.shortest or clips.shape[2] != 3:
            found = f"{clips.shape[1]} frames of {clips.shape[2]} colours"
            raise Lab4Error(f"FVD: clips of {found}; expected {net.shortest} or more of 3 for {self.network}")
        mean, std = (clips.new_tensor(v).view(1, 3, 1, 1) for v in (net.mean, net.std))
        found = []
        for clip in clips.float().clamp(0, 1):  # one at a time: at this size a clip is a batch
            x = F.interpolate(clip, (net.size, net.size), mode="bilinear", align_corners=False)
            found.append(self.model(((x - mean) / std).transpose(0, 1)[None]).cpu())
        return torch.cat(found)

    distance = staticmethod(frechet_distance)

    @property
    def protocol(self) -> str:
        net = NETWORKS[self.network]
        return (
            f"{net.features} of {self.network} at {net.size} x {net.size}; comparable only with the same network, "
            "number and length of clips"
        )


def load_fvd(file: str | os.PathLike, device: torch.device | str = "cpu") -> Fvd:
    """FVD with the network whose weights these are.

    Raises `Lab4Error` naming the file if it is missing, could run code, or holds the weights of another network.
    """
    source, weights = f"FVD weights {file}", bare_weights(Path(file).expanduser())
    for name, net in NETWORKS.items():
        with torch.device("meta"):
            model = net.build()
        own = model.state_dict()
        if next(iter(own)) not in weights:
            continue
        counters = {k: torch.tensor(0) for k in own if k.endswith("num_batches_tracked")}  # older files lack them
        model = model.to_empty(device="cpu")
        load_weights(model, {**counters, **weights}, source)
        if name == "r3d_18":
            model.fc = nn.Identity()
        return Fvd(name, model.to(device).eval().requires_grad_(False))
    raise Lab4Error(f"{source}: {', '.join(list(weights)[:3])} …; {EXPECTED}")
