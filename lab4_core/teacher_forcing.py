"""Teacher forcing as one number per predicted frame: `gt_weight`, the share of the ground truth in the
model's next input, `x_in = w x_true + (1 - w) x_pred`.

Weights of 0 and 1 are classic teacher forcing and scheduled sampling (Bengio et al. 2015,
arXiv 1506.03099); a fraction is report_003's blend. These parts are stateless: every draw comes
from a generator seeded by (seed, epoch) or (seed, step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lab4_core.registry import check, register

_TAG = 0x7F  # makes these draws independent of the data order's, which use the same seed


@dataclass(frozen=True, kw_only=True)
class TeacherForcing:
    """`ratio_at` is the probability of feeding the ground truth; `draw` says for what to draw anew: every epoch, every
    batch, or every frame of every clip.

    With `blend`, a draw that comes up true feeds `ratio x truth + (1 - ratio) x prediction` (report_003).
    """

    draw: Literal["epoch", "batch", "frame"] = "epoch"
    blend: bool = False

    def ratio_at(self, epoch: int, epochs: int) -> float:
        raise NotImplementedError

    def gt_weight(self, seed: int, step: int, epoch: int, epochs: int, batch: int, frames: int) -> np.ndarray:
        """(batch, frames) float32 in [0, 1], `frames` being the inputs of the predictions 1..T-1.

        The input of the first prediction is a given frame, so column 0 is always 1.
        """
        ratio = self.ratio_at(epoch, epochs)
        rng = np.random.default_rng([_TAG, seed, epoch if self.draw == "epoch" else step])
        shape = (batch, frames) if self.draw == "frame" else (1, 1)
        hit = rng.random(shape, dtype=np.float32) < ratio
        weight = np.broadcast_to(hit * np.float32(ratio if self.blend else 1.0), (batch, frames)).astype(np.float32)
        weight[:, 0] = 1.0
        return weight


@register("teacher_forcing", "linear")
@dataclass(frozen=True, kw_only=True)
class Linear(TeacherForcing):
    """The lab's: `ratio` (its `tfr`) until epoch `start_decay` (`tfr_sde`); from there each epoch takes off
    `decay_step` (`tfr_d_step`), down to `floor`."""

    ratio: float = 1.0
    start_decay: int = 10
    decay_step: float = 0.1
    floor: float = 0.0

    def __post_init__(self):
        check(0 <= self.ratio <= 1, "teacher_forcing ratio", self.ratio, "a probability in [0, 1]")
        check(self.start_decay >= 0, "teacher_forcing start_decay", self.start_decay, "an epoch, 0 or more")
        check(self.decay_step >= 0, "teacher_forcing decay_step", self.decay_step, "0 or more")
        check(0 <= self.floor <= 1, "teacher_forcing floor", self.floor, "a probability in [0, 1]")

    def ratio_at(self, epoch, epochs):
        # the template updates between epochs, after counting up: epoch start_decay has already decayed once, and epoch
        # 0 never decays
        return max(self.floor, self.ratio - self.decay_step * max(0, epoch - max(self.start_decay, 1) + 1))


@register("teacher_forcing", "constant")
@dataclass(frozen=True, kw_only=True)
class Constant(TeacherForcing):
    """One ratio for the whole training; 0 is free running, 1 is pure teacher forcing."""

    ratio: float = 0.0

    def __post_init__(self):
        check(0 <= self.ratio <= 1, "teacher_forcing ratio", self.ratio, "a probability in [0, 1]")

    def ratio_at(self, epoch, epochs):
        return self.ratio


@register("teacher_forcing", "inverse_sigmoid")
@dataclass(frozen=True, kw_only=True)
class InverseSigmoid(TeacherForcing):
    """k / (k + exp(i / k)) of Bengio et al. 2015, section 2.4, with i in epochs."""

    draw: Literal["epoch", "batch", "frame"] = "frame"
    k: float = 5.0

    def __post_init__(self):
        check(self.k >= 1, "inverse_sigmoid teacher_forcing: k", self.k, "1 or more")

    def ratio_at(self, epoch, epochs):
        return self.k / (self.k + math.exp(min(700.0, epoch / self.k)))


@register("teacher_forcing", "exponential")
@dataclass(frozen=True, kw_only=True)
class Exponential(TeacherForcing):
    """k^i of Bengio et al. 2015, section 2.4, with i in epochs."""

    draw: Literal["epoch", "batch", "frame"] = "frame"
    k: float = 0.9

    def __post_init__(self):
        check(0 < self.k <= 1, "exponential teacher_forcing: k", self.k, "a factor in (0, 1]")

    def ratio_at(self, epoch, epochs):
        return self.k**epoch
