"""The built-in dataset: a procedural dancer in a studio, with the layout and statistics of the lab's data.

It needs no download and has ground truth for its test clips. Everything follows from the parameters: the same
parameters give the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import torch

from lab4_core.data import cache, dancer_motion, dancer_render, dancer_skeleton
from lab4_core.data.store import Dataset, VideoData, check_memory
from lab4_core.progress import Progress
from lab4_core.registry import check, register

VERSION = 3  # of motion and renderer together; raised when the pictures change
SPLITS = {"train": 0, "val": 1, "test": 2}


@register("data", "dancer")
@dataclass(frozen=True, kw_only=True)
class Dancer(Dataset):
    """`clips` training clips, one calmer validation clip and `test_clips` test clips of `frames` frames each.

    Adding training clips changes none of the existing clips. Rendered once, then cached.
    """

    clips: int = 4
    frames: int = 630
    test_clips: int = 2
    seed: int = 0
    height: int = 32
    width: int = 64

    def __post_init__(self):
        at_least = {"clips": 1, "frames": 2, "test_clips": 0, "seed": 0, "height": 8, "width": 8}
        for name, low in at_least.items():
            check(getattr(self, name) >= low, f"data dancer: {name}", getattr(self, name), f"{low} or more")

    def load(self) -> VideoData:
        return cache.load(self.kind, *self._key(), self._render)

    def test_truth(self) -> tuple[torch.Tensor, ...]:
        """The ground truth of the test clips: uint8 (T, C, H, W) each, frame 0 being the given one."""
        arrays = cache.fetch(self.kind, *self._key(), self._render)
        return tuple(torch.from_numpy(arrays[f"truth/{i}"]) for i in range(self.test_clips))

    def clip(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames and pose images, uint8 (T, 3, H, W), of one clip of `train`, `val` or `test`."""
        rng = np.random.default_rng([0xDA2CE, self.seed, SPLITS[split], index])
        angles = dancer_motion.choreograph(self.frames, rng, calm=split == "val")
        joints = dancer_skeleton.skeleton(angles)
        return (
            dancer_render.render(joints, self.height, self.width, rng),
            dancer_render.poses(joints, self.height, self.width),
        )

    def _key(self) -> tuple[str, str]:
        identity = json.dumps(asdict(self))
        return identity, f"{VERSION} {identity}"

    def _render(self) -> cache.Arrays:
        pictures = 2 * (self.clips + 1 + self.test_clips) * self.frames
        check_memory("data dancer", 2 * pictures, self.height, self.width)  # once clip by clip, once joined
        todo = [*(("train", i) for i in range(self.clips)), ("val", 0), *(("test", i) for i in range(self.test_clips))]
        progress = Progress("rendering the dancer")
        progress.line(f"{len(todo)} clips of {self.frames} frames (once; then cached)")
        clips = {}
        for split, i in todo:
            clips[split, i] = self.clip(split, i)
            progress.update(len(clips) / len(todo))
        progress.close()
        frames, poses = zip(*(clips["train", i] for i in range(self.clips)))
        arrays = {
            "train/frames": np.concatenate(frames),
            "train/cond": np.concatenate(poses),
            "train/starts": np.arange(self.clips) * self.frames,
            "val/starts": np.zeros(1, np.int64),
        }
        arrays["val/frames"], arrays["val/cond"] = clips["val", 0]
        for i in range(self.test_clips):
            frames, poses = clips["test", i]
            arrays |= {f"test/{i}/first": frames[:1], f"test/{i}/cond": poses, f"truth/{i}": frames}
        return arrays
