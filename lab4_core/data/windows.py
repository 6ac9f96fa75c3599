"""Training windows: which frames a batch holds, as a pure function of (seed, pass, index).

Nothing is remembered between batches, so a resumed run draws what the uninterrupted one would have drawn.
A pass is what the lab calls an epoch: every frame about once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from lab4_core.data.store import Clips, on_device, to_float
from lab4_core.errors import Lab4Error

ORDER, PLACE = 0x0DE2, 0x91ACE  # keep the draws of order and place apart


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of one training set.

    spans: (begin, end) of each clip, as `Clips.spans`; no window crosses from one to the next.
    share: use only the first share of all frames (the lab's `partial`, `fast_partial`).
    mode:  fixed: each clip cut into windows without overlap, in order, or with `shuffle` in a new order each pass.
           The smaller last batch is kept, so that no window goes unused; the lab's DataLoader drops it.
           random: a batch is `batch_size` windows that begin anywhere, every place equally likely.

    Raises `Lab4Error` when no clip is as long as a window.
    """

    spans: list[tuple[int, int]] = field(repr=False)
    n_frames: int
    batch_size: int
    seed: int = 0
    mode: Literal["fixed", "random"] = "fixed"
    shuffle: bool = False
    share: float = 1.0

    def __post_init__(self):
        last = int(self.spans[-1][1] * self.share)
        spans = [(a, min(b, last)) for a, b in self.spans if a < last]
        fits = [(a, b) for a, b in spans if b - a >= self.n_frames]
        if not fits:
            longest = max((b - a for a, b in spans), default=0)
            of = f" in the first {self.share:g} of the frames" if self.share < 1 else ""
            raise Lab4Error(f"n_frames = {self.n_frames}: expected at most {longest}, the longest training clip{of}")
        fixed = [np.arange(a, b - self.n_frames + 1, self.n_frames) for a, b in fits]
        anywhere = [np.arange(a, b - self.n_frames + 1) for a, b in fits]
        object.__setattr__(self, "_fixed", np.concatenate(fixed))
        object.__setattr__(self, "_anywhere", np.concatenate(anywhere))

    @property
    def n_windows(self) -> int:
        """The number of windows without overlap, which make up a pass."""
        return len(self._fixed)

    @property
    def batches_per_pass(self) -> int:
        return -(-self.n_windows // self.batch_size)

    @property
    def smallest_batch(self) -> int:
        """Clips in the smallest batch of a pass."""
        if self.mode == "random":
            return self.batch_size
        return self.n_windows % self.batch_size or self.batch_size

    def starts(self, pass_index: int, index: int) -> np.ndarray:
        """First frames (B,) int64 of batch `index` of pass `pass_index`, both from 0."""
        assert 0 <= index < self.batches_per_pass
        if self.mode == "random":
            rng = np.random.default_rng([PLACE, self.seed % 2**64, pass_index, index])
            return rng.choice(self._anywhere, self.batch_size)
        order = self._fixed
        if self.shuffle:
            order = np.random.default_rng([ORDER, self.seed % 2**64, pass_index]).permutation(order)
        return order[index * self.batch_size : (index + 1) * self.batch_size]


def gather(
    clips: Clips, starts: np.ndarray | torch.Tensor, n_frames: int, cond_offsets: Sequence[int] = (0,)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows by index, on the device that holds the clips.

    starts (B,) -> frames (B, T, C, H, W) and cond (B, T, k * C, …): images as floats in [0, 1], numbers unchanged.
    A frame's condition concatenates those of the frames at the k offsets from it; beyond the ends of its clip the
    first or last frame's is repeated. Only uint8 moves until the conversion, and nothing waits for a GPU.
    """
    device = clips.frames.device
    starts = on_device(starts, device)
    index = starts[:, None] + torch.arange(n_frames, device=device)
    begins, ends = clips.bounds
    clip = torch.searchsorted(begins, starts, right=True)[:, None] - 1
    parts = [clips.cond[(index + o).clamp(begins[clip], ends[clip] - 1) if o else index] for o in cond_offsets]
    return to_float(clips.frames[index]), to_float(torch.cat(parts, 2))
