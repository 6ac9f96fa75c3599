"""Where a training run stands: which epoch, which batch, and the counts that schedules are called with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab4_core.config import Config
from lab4_core.data.windows import Windows

MINUTES_RESOLUTION = 10_000  # steps that the schedules see in a run measured in minutes


@dataclass(frozen=True)
class Moment:
    """Schedules are called with (epoch, epochs) or (step, steps)."""

    epoch: int
    epochs: int
    step: int
    steps: int

    def of(self, schedule) -> float:
        """The value of a schedule at this moment, which is counted in the schedule's own unit."""
        if schedule.unit == "epoch":
            return schedule(self.epoch, self.epochs)
        return schedule(self.step, self.steps)


@dataclass(frozen=True)
class Position(Moment):
    """A moment and its batch, which is number `index` of pass `pass_index` over `windows`."""

    windows: Windows
    pass_index: int
    index: int


def moments(cfg: Config, ends: np.ndarray, most: int = 2000) -> list[tuple[float, Moment]]:
    """Where a run stood at its optimizer steps, or at `most` of them, each with the epochs done, as a fraction.
    ends: (0, 0), and what its log knows: (steps, epochs) done at the end of each epoch."""
    steps, epochs = ends.T
    done, of_an_epoch = int(steps[-1]), (steps[-1] - steps[-2]) / (epochs[-1] - epochs[-2])
    total = MINUTES_RESOLUTION if cfg.minutes else cfg.steps or done + (cfg.epochs - epochs[-1]) * of_an_epoch
    found = []
    for step in np.unique(np.linspace(0, done, max(1, min(done, most)), endpoint=False).astype(int)):
        x = np.interp(step, steps, epochs)
        at = x / cfg.epochs * MINUTES_RESOLUTION if cfg.minutes else step
        found.append((float(x), Moment(int(x), cfg.epochs, int(at), int(total))))
    return found


class Clock:
    """The length of a run is given by its `epochs`, its `steps` or its `minutes`. With steps or minutes, the epochs
    are periods of equal length, and all schedules are stretched over the run.

    Raises `Lab4Error` when no training clip is as long as a window.
    """

    def __init__(self, cfg: Config, spans: list[tuple[int, int]]):
        self.cfg = cfg

        def windows(share: float) -> Windows:
            return Windows(spans=spans, n_frames=cfg.n_frames, batch_size=cfg.batch_size, seed=cfg.seed,
                           mode=cfg.windows, shuffle=cfg.shuffle, share=share)  # fmt: skip

        self.full = windows(cfg.partial)
        self.fast = windows(cfg.fast_partial) if cfg.fast_epochs else self.full
        self._fast_steps = min(cfg.fast_epochs, cfg.epochs) * self.fast.batches_per_pass
        slow = max(0, cfg.epochs - cfg.fast_epochs)
        self.total = cfg.steps or self._fast_steps + slow * self.full.batches_per_pass

    def fraction(self, step: int, seconds: float) -> float:
        """The share of the run that is done: 0 at the start, 1 or more at the end."""
        return seconds / (60 * self.cfg.minutes) if self.cfg.minutes else step / self.total

    def at(self, step: int, seconds: float) -> Position | None:
        """The position after `step` optimizer steps and `seconds` of the run; None when it is over."""
        if self.fraction(step, seconds) >= 1:
            return None
        if self.cfg.steps or self.cfg.minutes:
            return self._stretched(step, seconds)
        if step < self._fast_steps:
            epoch, index = divmod(step, self.fast.batches_per_pass)
        else:
            epoch, index = divmod(step - self._fast_steps, self.full.batches_per_pass)
            epoch += self.cfg.fast_epochs
        return Position(epoch, self.cfg.epochs, step, self.total, self._windows(epoch), epoch, index)

    def _stretched(self, step: int, seconds: float) -> Position:
        if self.cfg.minutes:
            at, steps = int(self.fraction(step, seconds) * MINUTES_RESOLUTION), MINUTES_RESOLUTION
        else:
            at, steps = step, self.total
        epoch = at * self.cfg.epochs // steps
        windows = self._windows(epoch)
        pass_index, index = divmod(step, windows.batches_per_pass)
        return Position(epoch, self.cfg.epochs, at, steps, windows, pass_index, index)

    def peak(self, schedule) -> float:
        """The largest value of a schedule over the run, sampled if the run is very long."""
        steps = MINUTES_RESOLUTION if self.cfg.minutes else self.total
        n = self.cfg.epochs if schedule.unit == "epoch" else steps
        return max(schedule(i, n) for i in range(0, n, max(1, n // MINUTES_RESOLUTION)))

    def _windows(self, epoch: int) -> Windows:
        return self.fast if epoch < self.cfg.fast_epochs else self.full
