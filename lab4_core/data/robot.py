"""The simulated twin of BAIR robot pushing: an arm that really pushes objects, in the layout and units of that data.

The `svg` model uses it when no BAIR root is given. The frames follow from the actions, so it can also show what other
actions would have led to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab4_core.data import robot_render, robot_world
from lab4_core.data.synthetic import SPLITS, Synthetic
from lab4_core.errors import Lab4Error
from lab4_core.registry import register


@register("data", "robot")
@dataclass(frozen=True, kw_only=True)
class Robot(Synthetic):
    """`clips` training, `val_clips` validation and `test_clips` test clips of `frames` frames each (BAIR has 30).

    Conditions are 7 numbers per frame: the action (4) taken at it and the end effector's position (3) in it.
    """

    clips: int = 64
    val_clips: int = 8
    test_clips: int = 4
    frames: int = 30
    seed: int = 0
    height: int = 64
    width: int = 64

    version = 1
    given = 2

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
