"""The simulated twin of BAIR robot pushing: an arm that really pushes objects, in the layout and units of that data.

The `svg` model uses it when no BAIR root is given. The frames follow from the actions, so it can also show what other
actions would have led to. The same parameters give the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from lab4_core.data import cache, robot_render, robot_world
from lab4_core.data.store import Dataset, VideoData, check_memory
from lab4_core.errors import Lab4Error
from lab4_core.progress import Progress
from lab4_core.registry import check, register

VERSION = 1  # of mechanics and renderer together; raised when the pictures change
SPLITS = {"train": 0, "val": 1, "test": 2}
GIVEN = 2  # frames at the start of a test clip that are given


@register("data", "robot")
@dataclass(frozen=True, kw_only=True)
class Robot(Dataset):
    """`clips` training, `val_clips` validation and `test_clips` test clips of `frames` frames each (BAIR has 30).

    Conditions are 7 numbers per frame: the action (4) taken at it and the end effector's position (3) in it. Adding
    clips changes none of the existing ones. Rendered once, then cached.
    """

    clips: int = 64
    val_clips: int = 8
    test_clips: int = 4
    frames: int = 30
    seed: int = 0
    height: int = 64
    width: int = 64

    def __post_init__(self):
        at_least = {"clips": 1, "val_clips": 1, "test_clips": 0, "frames": 3, "seed": 0, "height": 8, "width": 8}
        for name, low in at_least.items():
            check(getattr(self, name) >= low, f"data robot: {name}", getattr(self, name), f"{low} or more")

    def load(self) -> VideoData:
        identity = json.dumps(asdict(self))
        return cache.load(self.kind, identity, f"{VERSION} {identity}", self._render)

    def clip(self, split: str, index: int, actions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Frames uint8 (T, 3, H, W) and conditions float32 (T, 7) of one clip of `train`, `val` or `test`.

        actions: float (T, 4), carried out from the same initial scene instead of the clip's own (which are
        `clip(split, index)[1][:, :4]`), to see what they would have led to. Raises `Lab4Error` for another shape or
        numbers that are not finite.
        """
        key = [0xA2B0, self.seed, SPLITS[split], index]
        rng = np.random.default_rng(key)
        scene = robot_world.new_scene(rng, len(robot_render.LOOKS))
        own = robot_world.wander(scene, self.frames, rng)
        if actions is not None:
            actions = np.asarray(actions, np.float64)
            if actions.shape != own.shape or not np.isfinite(actions).all():
                raise Lab4Error(f"actions of shape {actions.shape}: expected finite numbers of shape {own.shape}")
        # in float32, like the stored conditions: the stored actions then lead to the stored frames bit for bit
        motion = robot_world.simulate(scene, (own if actions is None else actions).astype(np.float32))
        film = np.random.default_rng([*key, 1])
        frames = robot_render.render(scene, motion, self.height, self.width, film)
        return frames, np.concatenate([motion.actions, motion.effector], 1).astype(np.float32)

    def _render(self) -> cache.Arrays:
        counts = {"train": self.clips, "val": self.val_clips, "test": self.test_clips}
        total, done, arrays = sum(counts.values()), 0, {}
        check_memory("data robot", 2 * total * self.frames, self.height, self.width)  # once clip by clip, once joined
        progress = Progress("rendering the robot")
        progress.line(f"{total} clips of {self.frames} frames (once; then cached)")
        for split, count in counts.items():
            clips = []
            for i in range(count):
                clips.append(self.clip(split, i))
                progress.update((done := done + 1) / total)
            if split == "test":
                for i, (frames, cond) in enumerate(clips):
                    arrays |= {f"test/{i}/first": frames[:GIVEN], f"test/{i}/cond": cond, f"test/{i}/truth": frames}
            else:
                frames, cond = zip(*clips)
                arrays[f"{split}/frames"], arrays[f"{split}/cond"] = np.concatenate(frames), np.concatenate(cond)
                arrays[f"{split}/starts"] = np.arange(count) * self.frames
        progress.close()
        return arrays
