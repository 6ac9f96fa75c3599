"""What a static camera sees when nobody is there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES = 400  # enough for a median; more would only cost memory
REACH = 8  # pixels around the skeleton's lines that may be body, at 64 x 32
INK = 25  # of 255: how much darker than white a line is at least


def empty_scene(frames: Tensor, cond: Tensor) -> Tensor:
    """Frames uint8 (N, C, H, W) of one static camera and their conditions -> the scene (C, H, W) in [0, 1].

    A pixel is the median of the frames in which no skeleton comes near it. Where it always does, or where the
    conditions are no pose images (skeletons on white, of the frames' size), it is the median of all frames.
    """
    index = torch.linspace(0, len(frames) - 1, min(FRAMES, len(frames)), device=frames.device).long()
    x = frames[index].float().div_(255)
    scene = x.median(0).values
    if cond.shape[2:] != frames.shape[2:]:
        return scene
    ink = 255 - cond[index].amin(1, keepdim=True).float()
    near = F.max_pool2d(ink, 2 * REACH + 1, 1, REACH) > INK
    seen = x.masked_fill_(near, torch.nan).nanmedian(0).values
    return torch.where(seen.isnan(), scene, seen)
