"""Watching for a loss that is not finite, without waiting for the GPU at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from lab4_core.errors import Lab4Error


class FiniteWatch:
    """`add` the terms of every step; `check` examines those added since the last check. Check before saving anything
    (a checkpoint, the best weights), so that what is saved is good."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, dict[str, Tensor], float, Sequence[int]]] = []

    def add(self, step: int, terms: dict[str, Tensor], beta: float, starts: Sequence[int]) -> None:
        """terms: scalars by name. starts: the first frames of the batch's windows."""
        self._steps.append((step, terms, beta, starts))

    def check(self) -> None:
        """Raises a `Lab4Error` that names the first bad step, its terms, beta and windows, and what to try."""
        steps, self._steps = self._steps, []
        for step, terms, beta, starts in steps:
            numbers = {name: float(value) for name, value in terms.items()}
            if all(math.isfinite(value) for value in numbers.values()):
                continue
            said = ", ".join(f"{name} = {value:.4g}" for name, value in numbers.items())
            raise Lab4Error(
                f"the loss is not finite at step {step}: {said}, beta = {beta:.4g}, windows at frames "
                f"{[int(s) for s in starts]}; expected finite numbers. Lower optimizer.lr or grad_clip, raise "
                "annealing.start, or leave out a few such steps with skip_nonfinite. The last good state is kept in "
                "last.pt and best.pt"
            )
