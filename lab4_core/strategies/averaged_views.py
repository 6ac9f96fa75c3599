"""Asking the same question several times: test-time augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lab4_core.errors import Lab4Error
from lab4_core.registry import check, register
from lab4_core.strategies.base import Strategy
from lab4_core.strategies.moved_person import Move, other_side, put_elsewhere

AT_ONCE = 24  # rollouts in one batch: a clip of the lab is 15 MB of poses, and all views of many are too much


@register("strategy", "averaged_views")
@dataclass(frozen=True, kw_only=True)
class AveragedViews(Strategy):
    """Predict each clip as it is, and with the person moved a little in front of the empty scene, and average.

    A network that folds pixels and halves the resolution answers a little differently when the person stands a pixel
    to the side. Moved back into place, such answers have different errors, and their mean errs less than each (as with
    crops and mirrored pictures in Krizhevsky et al. 2012). Differences are averaged: each view is compared with the
    plain prediction moved there and back as well, so that what cutting out and pasting changes cancels.

    For rollouts of a model that knows the scene, with pose images; training is unchanged. The true frames play no part.
    Each view costs one more rollout.

    right, down: pixels to either side; 0: no such views.  mirrored: also mirror the person, left and right exchanged.
    """

    right: int = 1
    down: int = 1
    mirrored: bool = True

    def __post_init__(self):
        for name, pixels in (("right", self.right), ("down", self.down)):
            check(0 <= pixels <= 8, f"averaged_views strategy: {name}", pixels, "0 to 8 pixels")

    @property
    def views(self) -> list[tuple[int, int, bool]]:
        """For each view besides the clip as it is: how far it lies to the right and down, and whether mirrored."""
        sides = [(x, 0, False) for x in (-self.right, self.right) if x]
        return sides + [(0, y, False) for y in (-self.down, self.down) if y] + [(0, 0, True)] * self.mirrored

    @property
    def averages(self):
        return f"mean of each clip as it is and of {len(self.views)} views, the person moved or mirrored"

    def start(self, model):
        if not model.knows_scene:
            raise Lab4Error(f"averaged_views strategy: the model {type(model).__name__}: expected one that knows the "
                            "empty scene, such as compact")  # fmt: skip
        return {}

    def roll_out(self, rollout, model, past, cond):
        if cond.dim() != 5 or cond.shape[2] != 3 or cond.shape[3:] != past.shape[3:]:
            raise Lab4Error(f"averaged_views strategy: conditions {tuple(cond.shape[2:])}: expected pose images "
                            f"(3, H, W) of the size of the frames {tuple(past.shape[3:])}")  # fmt: skip
        some = max(1, AT_ONCE // (1 + len(self.views)))
        parts = zip(past.split(some), cond.split(some))
        return torch.cat([self._averaged(rollout, model.empty_scene(), *part) for part in parts])

    def _averaged(self, rollout, scene: Tensor, past: Tensor, cond: Tensor) -> Tensor:
        frames, poses = [past], [cond]
        for view in self.views:
            move = move_of(view, past)
            frames.append(put_elsewhere(past, scene, move))
            poses.append(move.pose(other_side(cond) if view[2] else cond))
        plain, *others = rollout(torch.cat(frames), torch.cat(poses)).clamp(0, 1).split(len(past))
        mean = plain.clone()
        for (right, down, mirrored), made in zip(self.views, others):
            there = move_of((right, down, mirrored), past)
            back = move_of((right if mirrored else -right, -down, mirrored), past)
            same = put_elsewhere(put_elsewhere(plain, scene, there), scene, back)
            mean += (put_elsewhere(made, scene, back) - same) / (1 + len(others))
        return mean


def move_of(view: tuple[int, int, bool], x: Tensor) -> Move:
    """A view's move, the same for every clip of x (B, T, C, H, W)."""
    right, down, mirrored = (torch.tensor([v], device=x.device).expand(len(x)) for v in view)
    return Move(right, down, mirrored, *x.shape[3:])
