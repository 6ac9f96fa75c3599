"""Starting elsewhere, so that the pose has to be read."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lab4_core.registry import check, register
from lab4_core.strategies.base import Strategy


@register("strategy", "distant_start")
@dataclass(frozen=True, kw_only=True)
class DistantStart(Strategy):
    """Start a share of the training windows with a frame from elsewhere in the clip.

    From one frame to the next hardly anything moves, so a model soon copies the person and never learns to draw one.
    After a jump copying fails, and the pose has to be read; rollouts that have gone wrong recover in the same way.

    share: of the windows that jump.  near: for a model with a reference frame, share of the windows whose true first
    frame is the reference: there copying is right, as in a rollout while nobody has moved.
    """

    share: float = 0.5
    near: float = 0.0

    def __post_init__(self):
        for name in ("share", "near"):
            check(0 <= getattr(self, name) <= 1, f"distant_start strategy: {name}", getattr(self, name), "in [0, 1]")

    def jump(self, clips, rng):
        jump, near = torch.rand((2, clips), generator=rng, device=rng.device)
        return jump < self.share, near < self.near
