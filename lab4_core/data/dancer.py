"""The built-in dataset: a procedural dancer in a studio, with the layout and statistics of the lab's data.

It needs no download and has ground truth for its test clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lab4_core.data import cache, dancer_motion, dancer_render, dancer_skeleton
from lab4_core.data.synthetic import SPLITS, Synthetic
from lab4_core.registry import register


@register("data", "dancer")
@dataclass(frozen=True, kw_only=True)
class Dancer(Synthetic):
    """`clips` training clips, one calmer validation clip and `test_clips` test clips of `frames` frames each."""

    clips: int = 4
    frames: int = 630
    test_clips: int = 2
    seed: int = 0
    height: int = 32
    width: int = 64

    version = 3
    val_clips = 1
    pictures = 2
    truth = "truth/{}"  # apart from the test clips, since the LAB4 layout does not have it

    def test_truth(self) -> tuple[torch.Tensor, ...]:
        """The ground truth of the test clips: uint8 (T, C, H, W) each, frame 0 being the given one."""
        arrays = cache.fetch(*self._cached())
        return tuple(torch.from_numpy(arrays[self.truth.format(i)]) for i in range(self.test_clips))

    def clip(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames and pose images, uint8 (T, 3, H, W), of one clip of `train`, `val` or `test`."""
        rng = np.random.default_rng([0xDA2CE, self.seed, SPLITS[split], index])
        angles = dancer_motion.choreograph(self.frames, rng, calm=split == "val")
        joints = dancer_skeleton.skeleton(angles)
        return (
            dancer_render.render(joints, self.height, self.width, rng),
            dancer_render.poses(joints, self.height, self.width),
        )
