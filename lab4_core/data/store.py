"""A dataset once it is loaded: uint8 frames, their conditions, and where the clips begin."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from lab4_core import paths
from lab4_core.data.scene import empty_scene
from lab4_core.errors import Lab4Error


@dataclass(frozen=True)
class Clips:
    """Clips of one split, one after the other.

    frames: uint8 (N, C, H, W).  cond: uint8 pose images (N, 3, H, W), or float32 numbers (N, K).
    starts: the index at which each clip begins, the first being 0. If cuts are unknown there is one clip.
    called: what scores call these clips, if more than the name of their split.
    """

    frames: torch.Tensor
    cond: torch.Tensor
    starts: tuple[int, ...] = (0,)
    called: str = ""

    @staticmethod
    def joined(clips: list[tuple[torch.Tensor, torch.Tensor]]) -> Clips:
        """One split from separate clips, each a pair of frames and conditions."""
        frames, cond = (torch.cat(parts) for parts in zip(*clips))
        starts = itertools.accumulate((len(x) for x, _ in clips[:-1]), initial=0)
        return Clips(frames, cond, tuple(starts))

    def apart(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The frames and conditions of each clip, as `joined` takes them."""
        return [(self.frames[a:b], self.cond[a:b]) for a, b in self.spans]

    def __repr__(self) -> str:  # in a notebook the tensors themselves would fill pages
        return f"Clips(clips={len(self.starts)}, frames={tuple(self.frames.shape)}, cond={tuple(self.cond.shape)})"

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(begin, end) of each clip, end excluded."""
        return list(zip(self.starts, (*self.starts[1:], len(self.frames))))

    @cached_property
    def scene(self) -> torch.Tensor:
        """The picture (C, H, W) in [0, 1] without the person (see `empty_scene`), computed on the CPU so that it is the
        same everywhere."""
        return empty_scene(self.frames.cpu(), self.cond.cpu()).to(self.frames.device)

    @cached_property
    def bounds(self) -> torch.Tensor:
        """Beginnings and ends of the clips, int64 (2, clips), on the device of the frames."""
        return torch.tensor(self.spans).T.contiguous().to(self.frames.device)


@dataclass(frozen=True)
class TestClip:
    """A clip to predict: first uint8 (n, C, H, W), the frames that are given, and cond (T, …) for all T frames.
    truth: all frames (T, C, H, W) if known, as in the BAIR layout."""

    __test__ = False  # its name is a term of the field, not a test for pytest

    name: str
    first: torch.Tensor
    cond: torch.Tensor
    truth: torch.Tensor | None = None

    def __repr__(self) -> str:
        shapes = {k: v.shape for k in ("first", "cond", "truth") if (v := getattr(self, k)) is not None}
        return f"TestClip({self.name!r}, {', '.join(f'{k}={tuple(v)}' for k, v in shapes.items())})"


@dataclass(frozen=True)
class VideoData:
    """A loaded dataset. `digest` is a hash of its content: this, not a path, tells two datasets apart."""

    name: str
    train: Clips
    val: Clips
    test: tuple[TestClip, ...]
    digest: str

    def __repr__(self) -> str:
        clips = f"train={len(self.train.starts)} clips, val={len(self.val.starts)}, test={len(self.test)}"
        return f"VideoData({self.name!r}, {clips}, digest={self.digest!r})"

    def hold_out(self, clip: int | None) -> VideoData:
        """The dataset with training clip number `clip` moved from training into the place of val, for
        leave-one-clip-out; unchanged with None, or if that has been done already. Raises `Lab4Error` if there is no
        such clip, or no other."""
        left_out = f"training clip {clip}, left out"
        if clip is None or self.val.called == left_out:
            return self
        clips = self.train.apart()
        if not 0 <= clip < len(clips) or len(clips) < 2:
            raise Lab4Error(f"hold_out = {clip}: {self.name} has {len(clips)} training clips whose cuts are known; "
                            f"expected a number from 0 to {len(clips) - 1}, and a clip that is left")  # fmt: skip
        val = Clips(*clips.pop(clip), called=left_out)
        return replace(self, train=Clips.joined(clips), val=val)


class Dataset:
    """Base of the registered `data` parts: configuration that knows how to load itself."""

    def load(self) -> VideoData:
        """Raises `Lab4Error` naming the path and what was expected there."""
        raise NotImplementedError


def on_device(x: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor or array of the host, copied to a device without waiting for it."""
    x = torch.as_tensor(x)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def to_float(x: torch.Tensor) -> torch.Tensor:
    """uint8 images to floats in [0, 1]; other numbers as float32."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x.float()


def check_memory(what: str, pictures: int, height: int, width: int) -> None:
    """Raise `Lab4Error` if the pictures need more memory than is free, before the system kills the process."""
    need, have = pictures * 3 * height * width, paths.free_memory()
    if need > have:
        raise Lab4Error(
            f"{what}: {pictures} pictures of height = {height} and width = {width} are {need / 1e9:.1f} GB: "
            f"expected at most the {have / 1e9:.1f} GB of memory that are free"
        )
