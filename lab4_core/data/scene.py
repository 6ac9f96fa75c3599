"""What a static camera sees when nobody is there."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES = 1000  # enough to choose from; more would only cost memory
FARTHEST = 1 / 20  # share of them that the median is taken over
REACH = 8  # pixels around the skeleton's lines that may be body, at 64 x 32
INK = 25  # of 255: whatever is darker than white by more is a line


def empty_scene(frames: Tensor, cond: Tensor) -> Tensor:
    """Frames uint8 (N, C, H, W) of one static camera and their conditions -> the scene (C, H, W) in [0, 1].

    A person takes light from much of the room: in the lab's frames the wall beside the person is darker by 5 of 255,
    and still by 2 at half the picture's width. So a pixel is the median of the frames in which the skeleton is farthest
    from its column, not of all frames in which it is uncovered. If some of these are within REACH of the column, it is
    the median of the frames in which no line is near the pixel. If a line always is, or if the conditions are not pose
    images (skeletons on white, of the frames' size), it is the median of all frames.
    """
    index = torch.linspace(0, len(frames) - 1, min(FRAMES, len(frames)), device=frames.device).long()
    x = frames[index].float().div_(255)
    scene = x.median(0).values
    if cond.shape[2:] != frames.shape[2:]:
        return scene
    ink = 255 - cond[index].amin(1, keepdim=True).float()
    near = F.max_pool2d(ink, 2 * REACH + 1, 1, REACH) > INK
    seen = x.masked_fill(near, torch.nan).nanmedian(0).values
    scene = torch.where(seen.isnan(), scene, seen)
    far = columns_away((ink > INK).amax((1, 2))).topk(math.ceil(FARTHEST * len(x)), dim=0)
    chosen = far.indices[:, None, None].expand(-1, *x.shape[1:])
    return torch.where(far.values.amin(0) > REACH, x.gather(0, chosen).median(0).values, scene)


def columns_away(inked: Tensor) -> Tensor:
    """Which columns of a picture have ink, bool (N, W) -> how many columns away the nearest one with ink is (N, W).
    0 in a picture without ink: a person whose skeleton was not found may be anywhere."""
    column = torch.arange(inked.shape[1], device=inked.device)
    apart = (column[:, None] - column).abs().expand(len(inked), -1, -1)
    nearest = apart.masked_fill(~inked[:, None], len(column)).amin(2)
    return nearest * inked.any(1, keepdim=True)
