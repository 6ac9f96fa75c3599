"""Noise on the model's hidden features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from lab4_core.errors import Lab4Error
from lab4_core.layers import DepthConvBlock, PreActBlock, ResidualBlock
from lab4_core.registry import check, register
from lab4_core.strategies.base import Strategy

BLOCKS = (DepthConvBlock, PreActBlock, ResidualBlock)


@register("strategy", "hidden_noise")
@dataclass(frozen=True, kw_only=True)
class HiddenNoise(Strategy):
    """Gaussian noise on the outputs of inner blocks during training (the noise injection that report_002 proposes).

    scale: standard deviation as a share of the output's own.  within: only blocks whose name begins with this, such as
    "Generator" of the lab's model or "up" of the compact one; empty: every block.
    """

    scale: float = 0.1
    within: str = ""

    def __post_init__(self):
        check(self.scale >= 0, "hidden_noise strategy: scale", self.scale, "0 or more")

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return [m for name, m in model.named_modules() if isinstance(m, BLOCKS) and name.startswith(self.within)]

    def start(self, model):
        if not self.blocks(model):
            names = ", ".join(dict.fromkeys(n.split(".")[0] for n, m in model.named_modules() if isinstance(m, BLOCKS)))
            raise Lab4Error(f"hidden_noise strategy: within = {self.within!r}: no block of the model has such a name; "
                            f"expected one of {names or 'a model with residual blocks'}")  # fmt: skip
        return {}

    @contextmanager
    def during(self, model, rng) -> Iterator[None]:
        def add_noise(module, inputs, output):
            noise = torch.randn(output.shape, generator=rng, device=output.device, dtype=output.dtype)
            return output + self.scale * output.detach().std() * noise

        handles = [block.register_forward_hook(add_noise) for block in self.blocks(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
