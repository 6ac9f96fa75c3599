"""Noise on the model's input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lab4_core.registry import check, register
from lab4_core.strategies.base import Strategy


@register("strategy", "input_noise")
@dataclass(frozen=True, kw_only=True)
class InputNoise(Strategy):
    """Corrupt the input frames the way rollouts corrupt them, so that the model learns to repair them rather than
    trust them: white noise, and one shift of brightness and of contrast per frame.

    noise, brightness: standard deviations in units of the image range [0, 1].  contrast: that of a factor around 1.
    A frame stays as it is with probability 1/2.
    """

    noise: float = 0.02
    brightness: float = 0.03
    contrast: float = 0.05

    def __post_init__(self):
        for name in ("noise", "brightness", "contrast"):
            check(0 <= getattr(self, name) <= 1, f"input_noise strategy: {name}", getattr(self, name), "in [0, 1]")

    def feed(self, x_in, x_last, rng):
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng, device=x_in.device)

        m = x_in.shape[0]
        keep = torch.rand((m, 1, 1, 1), generator=rng, device=x_in.device) < 0.5
        gain = 1 + self.contrast * normal(m, 1, 1, 1)
        worse = (x_in - 0.5) * gain + 0.5 + self.brightness * normal(m, 1, 1, 1) + self.noise * normal(*x_in.shape)
        return torch.where(keep, x_in, worse.clamp(0, 1))
