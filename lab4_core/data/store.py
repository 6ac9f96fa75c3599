"""What a dataset is once it is loaded: uint8 frames, their conditions, and where the clips begin."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Clips:
    """Clips of one split, one after the other.

    frames: uint8 (N, C, H, W).  cond: uint8 pose images (N, 3, H, W), or float32 numbers (N, K).
    starts: the index at which each clip begins, the first is 0. Where cuts are unknown there is one clip.
    """

    frames: torch.Tensor
    cond: torch.Tensor
    starts: tuple[int, ...] = (0,)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(begin, end) of every clip, end excluded."""
        return list(zip(self.starts, (*self.starts[1:], len(self.frames))))


@dataclass(frozen=True)
class TestClip:
    """A clip to predict: first uint8 (n_past, C, H, W), cond (T, …) for all T frames, no ground truth."""

    __test__ = False  # its name is the field's, not a test's

    name: str
    first: torch.Tensor
    cond: torch.Tensor


@dataclass(frozen=True)
class VideoData:
    """A loaded dataset. `digest` is a hash of its content: it, not a path, tells two datasets apart."""

    name: str
    train: Clips
    val: Clips
    test: tuple[TestClip, ...]
    digest: str


class Dataset:
    """Base of the registered `data` parts: configuration that knows how to load itself."""

    def load(self) -> VideoData:
        """Raises `Lab4Error` naming the path and what was expected there."""
        raise NotImplementedError


def to_float(x: torch.Tensor) -> torch.Tensor:
    """uint8 images to floats in [0, 1]; numbers stay as they are."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x
