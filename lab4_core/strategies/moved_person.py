"""Poses and places that no clip shows: the person cut out, moved or mirrored, and put back into the empty scene."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lab4_core.data.store import Clips
from lab4_core.errors import Lab4Error
from lab4_core.registry import check, register
from lab4_core.strategies.base import Strategy

# Colours of the lab's skeletons on one side of the body, and on the other side in the same order.
LEFT = ((0, 185, 255), (0, 215, 255), (255, 80, 70), (255, 120, 50), (255, 190, 0), (170, 0, 150), (255, 60, 180))
RIGHT = ((60, 110, 255), (40, 150, 255), (0, 255, 140), (0, 255, 80), (60, 255, 0), (120, 0, 170), (150, 30, 220))
MIDDLE = ((90, 80, 255), (100, 85, 255), (60, 190, 140), (190, 90, 160))

SURELY_SCENE, SURELY_PERSON = 0.04, 0.12  # difference from the empty scene, in units of the image range
WELL_INSIDE = 0.25, 0.45  # the same difference, where hardly any scene is left in a pixel
SHADE = 8  # pixels around the person in which shade moves along
DARKEST_SCENE = 0.05  # a ratio to black says nothing
EDGE = 2  # pixels: a person this near to an edge of the picture is taken to be cut off by it


@register("strategy", "moved_person")
@dataclass(frozen=True, kw_only=True)
class MovedPerson(Strategy):
    """In a share of the training clips, move the person sideways and a little up or down, and mirror half of them, pose
    and frame alike; the scene stays where it is.

    What differs from the empty scene (`Clips.scene`) is the person; what differs a little is shadow and moves along.
    A mirrored skeleton gets the colours of the other side. A person cut off by an edge of the picture only moves
    towards that edge, since nobody knows what lies beyond it. For a static camera; moves are whole pixels, so nothing
    is blurred.

    share: of the clips.  right, down: the farthest moves, as shares of the picture's width and height.
    light: how what is neither quite person nor quite scene is moved. "added": shadow is a difference from the scene,
    and the person's edge keeps the light of the old place, a pale rim where the new one is darker. "scaled": shadow,
    and the scene that shows through the edge, are ratios to the scene's light, so that they fit any place; changes in
    the brightness of the whole picture do not move.
    """

    share: float = 0.7
    right: float = 0.375
    down: float = 0.1
    light: Literal["added", "scaled"] = "added"
    augments_apart = True

    def __post_init__(self):
        for name in ("share", "right", "down"):
            check(0 <= getattr(self, name) <= 1, f"moved_person strategy: {name}", getattr(self, name), "in [0, 1]")

    def augment(self, frames, cond, clips, progress, rng):
        if cond.dim() != 5 or cond.shape[2] % 3 or cond.shape[3:] != frames.shape[3:]:
            raise Lab4Error(f"moved_person strategy: conditions {tuple(cond.shape[2:])}: expected pose images "
                            f"(3, H, W) of the size of the frames {tuple(frames.shape[3:])}")  # fmt: skip
        chosen, mirrored, right, down = torch.rand((4, len(frames)), generator=rng, device=rng.device)
        chosen = chosen < self.share
        some = which(chosen)
        moved = self._moved(frames[some], cond[some], clips, mirrored[some] < 0.5, right[some], down[some])
        return tuple(put(new, x, chosen, some) for new, x in zip(moved, (frames, cond)))

    def _moved(self, frames: Tensor, cond: Tensor, clips: Clips, mirrored: Tensor, right: Tensor, down: Tensor):
        """Clips and their conditions, all of them moved. right, down: draws in [0, 1], from the farthest move one way
        to the farthest the other way."""
        height, width = frames.shape[3:]
        right = ((2 * right - 1) * self.right * width).round()
        down = ((2 * down - 1) * self.down * height).round()
        scene = clips.scene.to(frames.device)
        person = rise(difference(frames, scene), SURELY_SCENE, SURELY_PERSON)
        at_left, at_right = touches(person[..., :EDGE]), touches(person[..., -EDGE:])
        at_left, at_right = torch.where(mirrored, at_right, at_left), torch.where(mirrored, at_left, at_right)
        right = towards(right, at_left, at_right)
        down = towards(down, touches(person[..., :EDGE, :]), touches(person[..., -EDGE:, :]))
        move = Move(right.long(), down.long(), mirrored, height, width)
        if self.light == "scaled":
            new = put_elsewhere(frames, scene, move)
        else:
            shadow = (1 - person) * (frames - scene)
            new = move(person * frames) + (1 - move(person)) * (scene + move(shadow))
            new = new.clamp(0, 1)
        some = which(mirrored)
        swapped = other_side(cond[some].unflatten(2, (-1, 3))).flatten(2, 3)
        pose = put(swapped, cond, mirrored, some)
        return new, move.pose(pose)


def which(chosen: Tensor) -> Tensor | slice:
    """The indices of the chosen clips (B,), to save work on the others; on a GPU all clips, since reading the choice
    back would mean waiting."""
    return slice(None) if chosen.is_cuda else chosen.nonzero()[:, 0]


def put(new: Tensor, x: Tensor, chosen: Tensor, some: Tensor | slice) -> Tensor:
    """x (B, …) with the chosen clips replaced by those in new, which holds the clips that `which` selects."""
    if isinstance(some, slice):
        return torch.where(chosen.view(-1, *[1] * (x.dim() - 1)), new, x)
    return x.index_copy(0, some, new)


def difference(frames: Tensor, scene: Tensor) -> Tensor:
    """How far frames (B, T, C, H, W) are from the scene (C, H, W) at each pixel, by the channel that differs most:
    (B, T, 1, H, W)."""
    return (frames - scene).abs().amax(2, keepdim=True)


def rise(x: Tensor, low: float, high: float) -> Tensor:
    """0 up to low, 1 from high on, linear between them."""
    return ((x - low) / (high - low)).clamp(0, 1)


def put_elsewhere(frames: Tensor, scene: Tensor, move: Move) -> Tensor:
    """Frames (B, T, C, H, W) with the person, and shadow as a ratio to the scene's light, moved in front of the scene
    (C, H, W)."""
    apart = difference(frames, scene)
    body, seen = rise(apart, *WELL_INSIDE), relit(frames, scene, rise(apart, SURELY_SCENE, SURELY_PERSON), move)
    return (move(body * frames) + (1 - move(body)) * seen).clamp(0, 1)


def relit(frames: Tensor, scene: Tensor, person: Tensor, move: Move) -> Tensor:
    """The scene in the light of each frame (B, T, C, H, W): the light near the person has moved along, the rest has
    stayed, and where the person was it is the mean of the light far from the person."""
    light = frames / scene.clamp(min=DARKEST_SCENE)
    near, across = person.flatten(0, 1), 2 * SHADE + 1
    near = F.max_pool2d(F.max_pool2d(near, (across, 1), 1, (SHADE, 0)), (1, across), 1, (0, SHADE))  # faster in two
    near = F.avg_pool2d(near, SHADE + 1, 1, SHADE // 2, count_include_pad=False).view_as(person)
    far = 1 - near
    some = 0.01  # in a close-up nothing is far; then it is the scene's own light
    mean = ((far * light).mean((3, 4), keepdim=True) + some) / (far.mean((3, 4), keepdim=True) + some)
    return scene * (mean + far * (light - mean) + move(near * (light - mean)))


def touches(person: Tensor) -> Tensor:
    """(B,) bool: whether any of the person is in these pixels (B, T, 1, h, w)."""
    return person.flatten(1).amax(1) > 0.5


def towards(move: Tensor, at_low: Tensor, at_high: Tensor) -> Tensor:
    """Moves (B,) without those that lead away from an edge that the person touches."""
    move = torch.where(at_low, move.clamp(max=0), move)
    return torch.where(at_high, move.clamp(min=0), move)


class Move:
    """Moves pictures (B, T, C, H, W), mirrored first, by one move per clip; zeros come in from outside."""

    def __init__(self, right: Tensor, down: Tensor, mirrored: Tensor, height: int, width: int):
        rows = torch.arange(height, device=right.device) - down[:, None]
        columns = torch.arange(width, device=right.device) - right[:, None]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
        self.inside = inside[:, None, None]
        self.index = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]

    def __call__(self, x: Tensor) -> Tensor:
        clip = torch.arange(len(x), device=x.device)[:, None, None]
        moved = x.permute(0, 3, 4, 1, 2)[clip, *self.index].permute(0, 3, 4, 1, 2)
        return moved * self.inside

    def pose(self, x: Tensor) -> Tensor:
        """The same for pose images, with white coming in."""
        return 1 - self(1 - x)


@cache
def inks(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """White minus each colour, and the same for the other side's colours, (K, 3) each; made once, since copying from
    the host makes a GPU wait."""
    sides = (LEFT + RIGHT + MIDDLE, RIGHT + LEFT + MIDDLE)
    return tuple(1 - torch.tensor(c, dtype=dtype, device=device) / 255 for c in sides)


def other_side(cond: Tensor) -> Tensor:
    """Pose images (…, 3, H, W) in [0, 1] with the colours of left and right exchanged.

    A pixel is white paper with some ink on it: the direction of the ink tells which colour it is, its strength stays.
    """
    ink = 1 - cond
    colours, others = inks(cond.dtype, cond.device)
    nearest = torch.einsum("...chw,kc->...khw", ink, F.normalize(colours, dim=1)).argmax(-3)
    pure = (others / others.amax(1, keepdim=True))[nearest].movedim(-1, -3)
    return 1 - pure * ink.amax(-3, keepdim=True)
