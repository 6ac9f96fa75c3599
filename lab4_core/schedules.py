"""KL annealing and learning-rate schedules: pure functions of (step, total_steps), so a resumed run
needs no memory of them.

`step` counts from 0. Whether a step is an optimizer step or an epoch is the schedule's `unit`;
the engine passes the count in that unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lab4_core.registry import check, register

Unit = Literal["epoch", "step"]


def cycle_linear(step: int, total_steps: int, start: float, stop: float, n_cycle: int, ratio: float) -> float:
    """Entry `step` of `frange_cycle_linear(total_steps, start, stop, n_cycle, ratio)`
    (Fu et al. 2019, arXiv 1903.10145): in every cycle a linear ramp over `ratio` of the period, then flat.

    The published function fills an array by a running sum; this is the same value without the array
    (a test compares the two over a grid, to 1e-9). With a ratio above 1 the ramp ends short of `stop`.
    """
    period = total_steps / n_cycle
    cycle = min(n_cycle - 1, int((step + 1) / period))
    while math.floor(cycle * period) > step:  # the ramp of a cycle begins at floor(cycle * period)
        cycle -= 1
    into = step - math.floor(cycle * period)
    return min(stop, start + into * (stop - start) / (period * ratio))


class Annealing:
    """The factor on beta, the weight of the KL term, at a step."""

    unit: Unit = "epoch"

    def __call__(self, step: int, total_steps: int) -> float:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class _Ramp(Annealing):
    start: float = 0.0
    stop: float = 1.0
    ratio: float = 1.0
    unit: Unit = "epoch"

    def __post_init__(self):
        check(0 <= self.start <= self.stop, f"{self.kind} annealing: start", self.start, f"0 to stop = {self.stop}")
        check(self.ratio >= 1e-6, f"{self.kind} annealing: ratio", self.ratio, "more than 0, a millionth at least")


@register("annealing", "cyclical")
@dataclass(frozen=True, kw_only=True)
class Cyclical(_Ramp):
    """`cycles` ramps from `start` to `stop`, each over `ratio` of its period (Fu et al. 2019, eq. 6)."""

    cycles: int = 10

    def __post_init__(self):
        super().__post_init__()
        check(1 <= self.cycles <= 1_000_000, f"{self.kind} annealing: cycles", self.cycles, "1 or more, to a million")

    def __call__(self, step, total_steps):
        return cycle_linear(step, total_steps, self.start, self.stop, self.cycles, self.ratio)


@register("annealing", "monotonic")
@dataclass(frozen=True, kw_only=True)
class Monotonic(_Ramp):
    """One ramp over `ratio` of the whole training, then flat: a single cycle (Bowman et al. 2016)."""

    def __call__(self, step, total_steps):
        return cycle_linear(step, total_steps, self.start, self.stop, 1, self.ratio)


@register("annealing", "rounded")
@dataclass(frozen=True, kw_only=True)
class Rounded(Cyclical):
    """Cycles as report_003 wrote them: their period rounded down to whole units, so that what is left over begins one
    more, and the last unit of each ramp at `stop` (a ramp of a single unit stays at `start`)."""

    start: float = 0.015
    ratio: float = 0.6
    cycles: int = 5

    def __call__(self, step, total_steps):
        period = max(1, int(total_steps) // self.cycles)
        climb = math.ceil(period * self.ratio)
        into = min(step % period, climb - 1)  # after the ramp it stays at its end
        return self.start + (self.stop - self.start) * into / (climb - 1) if climb > 1 else self.start


@register("annealing", "accumulating")
@dataclass(frozen=True, kw_only=True)
class Accumulating(Annealing):
    """What report_004 trained as monotonic: each unit adds `ratio` times its number, divided by `length`, so beta is a
    parabola that reaches `stop` after about sqrt(2 length stop / ratio) units, however long the training is."""

    stop: float = 1.0
    ratio: float = 2.0
    length: int = 20
    unit: Unit = "epoch"

    def __post_init__(self):
        check(self.stop >= 0, "accumulating annealing: stop", self.stop, "0 or more")
        check(self.ratio > 0, "accumulating annealing: ratio", self.ratio, "more than 0")
        check(self.length >= 1, "accumulating annealing: length", self.length, "1 or more")

    def __call__(self, step, total_steps):
        return min(self.stop, self.ratio * step * (step + 1) / (2 * self.length))


@register("annealing", "none")
@dataclass(frozen=True, kw_only=True)
class Constant(Annealing):
    """No annealing: the factor on beta is `stop` throughout (the lab's `NoKL_Annealing`, beta = 1)."""

    stop: float = 1.0
    unit: Unit = "epoch"

    def __post_init__(self):
        check(self.stop >= 0, "none annealing: stop", self.stop, "0 or more")

    def __call__(self, step, total_steps):
        return self.stop


class LRSchedule:
    """The factor on the optimizer's learning rate at a step."""

    unit: Unit = "epoch"

    def __call__(self, step: int, total_steps: int) -> float:
        raise NotImplementedError


@register("lr_schedule", "multistep")
@dataclass(frozen=True, kw_only=True)
class MultiStep(LRSchedule):
    """Multiply by `gamma` at each of `milestones` (the lab: epochs 2 and 5, which leaves 1e-5 for the other 65)."""

    milestones: tuple[int, ...] = (2, 5)
    gamma: float = 0.1
    unit: Unit = "epoch"

    def __post_init__(self):
        check(0 < self.gamma <= 1, "multistep lr_schedule: gamma", self.gamma, "a factor in (0, 1]")

    def __call__(self, step, total_steps):
        return self.gamma ** sum(step >= m for m in self.milestones)


@register("lr_schedule", "constant")
@dataclass(frozen=True, kw_only=True)
class ConstantLR(LRSchedule):
    """The learning rate unchanged, after a linear warm-up over the first share `warmup` of training."""

    warmup: float = 0.0
    unit: Unit = "step"

    def __post_init__(self):
        check(0 <= self.warmup < 1, "constant lr_schedule: warmup", self.warmup, "a share in [0, 1)")

    def __call__(self, step, total_steps):
        return min(1.0, (step + 1) / (self.warmup * total_steps + 1))


@register("lr_schedule", "step")
@dataclass(frozen=True, kw_only=True)
class StepLR(LRSchedule):
    """Multiply by `gamma` every `every` epochs (or steps)."""

    every: int = 10
    gamma: float = 0.5
    unit: Unit = "epoch"

    def __post_init__(self):
        check(self.every >= 1, "step lr_schedule: every", self.every, "1 or more")
        check(0 < self.gamma <= 1, "step lr_schedule: gamma", self.gamma, "a factor in (0, 1]")

    def __call__(self, step, total_steps):
        return self.gamma ** (step // self.every)


@register("lr_schedule", "cosine")
@dataclass(frozen=True, kw_only=True)
class Cosine(LRSchedule):
    """Linear warm-up over the first share `warmup` of training, then half a cosine down to `floor`
    (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5 without restarts)."""

    warmup: float = 0.0
    floor: float = 0.0
    unit: Unit = "step"

    def __post_init__(self):
        check(0 <= self.warmup < 1, "cosine lr_schedule: warmup", self.warmup, "a share in [0, 1)")
        check(0 <= self.floor <= 1, "cosine lr_schedule: floor", self.floor, "a factor in [0, 1]")

    def __call__(self, step, total_steps):
        warm = self.warmup * total_steps
        if step < warm:
            return (step + 1) / (warm + 1)
        along = (step - warm) / max(1.0, total_steps - warm)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


@register("lr_schedule", "exponential")
@dataclass(frozen=True, kw_only=True)
class Exponential(LRSchedule):
    """Multiply by `gamma` every epoch (or step)."""

    gamma: float = 0.95
    unit: Unit = "epoch"

    def __post_init__(self):
        check(0 < self.gamma <= 1, "exponential lr_schedule: gamma", self.gamma, "a factor in (0, 1]")

    def __call__(self, step, total_steps):
        return self.gamma**step
