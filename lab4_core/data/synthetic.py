"""What the synthetic datasets share: clips rendered one by one from the parameters alone, joined and cached."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from lab4_core.data import cache
from lab4_core.data.store import Dataset, VideoData, check_memory
from lab4_core.progress import Progress
from lab4_core.registry import check

SPLITS = {"train": 0, "val": 1, "test": 2}  # each has random numbers of its own


class Synthetic(Dataset):
    """Base of the synthetic datasets. The same parameters give the same bytes, and adding clips changes none of the
    existing ones. Rendered once, then cached.

    A subclass has the fields clips, val_clips, test_clips, frames (per clip), seed, height and width, and `version`,
    a number that is raised when its pictures change."""

    pictures = 1  # per frame: 2 where the condition is one too
    given = 1  # frames at the start of a test clip that are given
    truth = "test/{}/truth"  # the array that holds all frames of a test clip

    def __post_init__(self):
        least = {"clips": 1, "val_clips": 1, "test_clips": 0, "seed": 0, "height": 8, "width": 8}
        for name, low in (least | {"frames": self.given + 1}).items():
            check(getattr(self, name) >= low, f"data {self.kind}: {name}", getattr(self, name), f"{low} or more")

    def clip(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames uint8 (T, 3, H, W) and conditions (T, …) of one clip of `train`, `val` or `test`."""
        raise NotImplementedError

    def load(self) -> VideoData:
        return cache.load(*self._cached())

    def _cached(self) -> tuple:
        """The arguments of `cache.load` and `cache.fetch`."""
        identity = json.dumps(asdict(self))
        return self.kind, identity, f"{self.version} {identity}", self._render

    def _render(self) -> cache.Arrays:
        counts = {"train": self.clips, "val": self.val_clips, "test": self.test_clips}
        total, done, arrays = sum(counts.values()), 0, {}
        pictures = 2 * total * self.frames * self.pictures  # once clip by clip, once joined
        check_memory(f"data {self.kind}", pictures, self.height, self.width)
        progress = Progress(f"rendering the {self.kind}")
        progress.line(f"{total} clips of {self.frames} frames (once; then cached)")
        for split, count in counts.items():
            clips = []
            for i in range(count):
                clips.append(self.clip(split, i))
                progress.update((done := done + 1) / total)
            if split == "test":
                for i, (frames, cond) in enumerate(clips):
                    arrays |= {f"test/{i}/first": frames[: self.given], f"test/{i}/cond": cond}
                    arrays[self.truth.format(i)] = frames
            else:
                frames, cond = zip(*clips)
                arrays[f"{split}/frames"], arrays[f"{split}/cond"] = np.concatenate(frames), np.concatenate(cond)
                arrays[f"{split}/starts"] = np.arange(count) * self.frames
        progress.close()
        return arrays
