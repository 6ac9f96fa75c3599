"""Pulling the weights back towards where they started."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lab4_core.registry import check, register
from lab4_core.strategies.base import Strategy


@register("strategy", "cosine_interpolation")
@dataclass(frozen=True, kw_only=True)
class CosineInterpolation(Strategy):
    """Every `every` epochs replace each weight tensor w by t w + (1 - t) w_0, where w_0 is its initial value and
    t = 2 cos / (1 + cos) with the angle between the two (report_003).

    The formula is Model Stock's (Jang et al. 2024, arXiv 2403.19522, eq. 4 for two models), with another angle: there
    it lies between the *updates* of two fine-tuned models, seen from the pretrained one; here w_0 is random, and
    cos only says how much of it is left. If the angle is obtuse, t is 0: the formula would leave the segment between
    the two. A tensor that started at zero has no angle and stays as it is; so do buffers.
    """

    every: int = 5

    def __post_init__(self):
        check(self.every >= 1, "cosine_interpolation strategy: every", self.every, "1 epoch or more")

    def start(self, model):
        return {k: v.detach().clone() for k, v in model.named_parameters()}

    @torch.no_grad()
    def after_epoch(self, model, state, epoch, epochs):
        if (epoch + 1) % self.every:
            return
        for name, weight in model.named_parameters():
            first = state[name]
            weight.copy_(torch.where(first.any(), first.lerp(weight, stock_ratio(weight, first)), weight))


def stock_ratio(a: Tensor, b: Tensor) -> Tensor:
    """2 cos / (1 + cos) of the angle between two tensors of one shape, 0 where it is obtuse. A scalar."""
    cos = torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).clamp(0, 1)
    return 2 * cos / (1 + cos)
