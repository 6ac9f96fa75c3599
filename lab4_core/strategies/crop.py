"""Training on parts of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lab4_core.errors import Lab4Error
from lab4_core.registry import check, register
from lab4_core.strategies.base import Strategy


@register("strategy", "crop")
@dataclass(frozen=True, kw_only=True)
class Crop(Strategy):
    """Replace a share of the training clips by crops of themselves, enlarged to full size: one box per clip, the same
    in all its frames and poses, so that people leave the picture more often (report_004: half of the clips, in a
    second stage of training).

    share: of the clips.  smallest: side of the smallest box as a share of the picture's; boxes keep its proportions.
    begin: share of the training after which cropping begins.
    """

    share: float = 0.5
    smallest: float = 0.6
    begin: float = 0.0

    def __post_init__(self):
        check(0 <= self.share <= 1, "crop strategy: share", self.share, "in [0, 1]")
        check(0 < self.smallest <= 1, "crop strategy: smallest", self.smallest, "a share in (0, 1]")
        check(0 <= self.begin < 1, "crop strategy: begin", self.begin, "a share in [0, 1)")

    def augment(self, frames, cond, clips, progress, rng):
        if progress < self.begin:
            return frames, cond
        if cond.dim() != 5 or cond.shape[3:] != frames.shape[3:]:
            raise Lab4Error(f"crop strategy: conditions {tuple(cond.shape[2:])}: expected pose images of the frames' "
                            f"size {tuple(frames.shape[3:])}, which can be cropped with them")  # fmt: skip
        b = len(frames)
        draw, side, right, down = torch.rand((4, b), generator=rng, device=rng.device)
        side = self.smallest + (1 - self.smallest) * side
        room = 1 - side  # how far the box may move from the middle, in grid_sample's units of half a picture
        zero = torch.zeros_like(side)
        boxes = torch.stack([side, zero, room * (2 * right - 1), zero, side, room * (2 * down - 1)], 1).view(b, 2, 3)
        cropped = draw < self.share

        def crop(x: torch.Tensor) -> torch.Tensor:
            stacked = x.flatten(1, 2)  # a clip's frames become channels: one box for all of them
            grid = F.affine_grid(boxes.to(x.dtype), list(stacked.shape), align_corners=False)
            new = F.grid_sample(stacked, grid, padding_mode="border", align_corners=False).view_as(x)
            return torch.where(cropped.view(b, 1, 1, 1, 1), new, x)

        return crop(frames), crop(cond)
