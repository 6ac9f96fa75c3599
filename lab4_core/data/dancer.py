"""The embedded dataset: a procedural dancer in a studio, with the layout and the statistics of the lab's data.

It needs no download and has ground truth for its test clips. Everything follows from the parameters:
the same ones give the same bytes on every machine with the same numpy.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import numpy as np
import torch

from lab4_core.data import cache, dancer_motion, dancer_render
from lab4_core.data.store import Dataset, VideoData
from lab4_core.registry import check, register

VERSION = 1  # of motion and renderer together: another one means other pictures
SPLITS = {"train": 0, "val": 1, "test": 2}


@register("data", "dancer")
@dataclass(frozen=True, kw_only=True)
class Dancer(Dataset):
    """`clips` training clips, one calmer validation clip and `test_clips` test clips of `frames` frames each.

    More training clips leave the others, and the first ones, as they are. Rendered once, then cached.
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
        return cache.from_arrays(arrays := self._arrays(), self.kind, arrays["digest"].tobytes().hex())

    def test_truth(self) -> tuple[torch.Tensor, ...]:
        """What the test clips really show: uint8 (T, C, H, W) for each, frame 0 the given one."""
        arrays = self._arrays()
        return tuple(torch.from_numpy(arrays[f"truth/{i}"]) for i in range(self.test_clips))

    def clip(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames and pose images, uint8 (T, 3, H, W), of one clip of `train`, `val` or `test`."""
        rng = np.random.default_rng([0xDA2CE, self.seed, SPLITS[split], index])
        angles = dancer_motion.choreograph(self.frames, rng, calm=split == "val")
        joints = dancer_motion.skeleton(angles)
        return (
            dancer_render.render(joints, self.height, self.width, rng),
            dancer_render.poses(joints, self.height, self.width),
        )

    def _arrays(self) -> cache.Arrays:
        identity = json.dumps(asdict(self))
        return cache.fetch(self.kind, identity, f"{VERSION} {identity}", lambda: cache.with_digest(self._render()))

    def _render(self) -> cache.Arrays:
        total = self.clips + 1 + self.test_clips
        print(f"lab4: rendering {total} clips of {self.frames} frames (once; then cached)", file=sys.stderr)
        train = [self.clip("train", i) for i in range(self.clips)]
        arrays = {
            "train/frames": np.concatenate([frames for frames, _ in train]),
            "train/cond": np.concatenate([poses for _, poses in train]),
            "train/starts": np.arange(self.clips) * self.frames,
        }
        arrays["val/frames"], arrays["val/cond"] = self.clip("val", 0)
        arrays["val/starts"] = np.zeros(1, np.int64)
        for i in range(self.test_clips):
            frames, poses = self.clip("test", i)
            arrays |= {f"test/{i}/first": frames[:1], f"test/{i}/cond": poses, f"truth/{i}": frames}
        return arrays
