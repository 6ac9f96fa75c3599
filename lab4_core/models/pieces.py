"""The steps of a training clip in pieces.

A graph of all steps holds the activations of all steps. Where no step needs the graph of another, each piece can run
forward to its loss and backward again before the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lab4_core.models.base import Feed


def pieces(known: Sequence[bool], longest: int) -> list[slice]:
    """Runs of at most `longest` steps whose inputs are known; every other step alone."""
    found: list[slice] = []
    for t, is_known in enumerate(known):
        last = found[-1] if found else None
        if last and is_known and known[t - 1] and t - last.start < longest:
            found[-1] = slice(last.start, t + 1)
        else:
            found.append(slice(t, t + 1))
    return found


@dataclass(frozen=True)
class Clip:
    """S steps of B training clips, and what the model sees as its input there: true frames, predictions, or a mixture,
    by the arguments of `VideoPredictor.unroll`. Some of its steps are a `Clip` again.

    known: for each step, whether its input is the true frame throughout.
    before: the prediction and the input of the step before the first, (B, C, H, W) each.
    """

    x: Tensor  # (S + 1, B, C, H, W)
    cond: Tensor  # (S + 1, B, …)
    eps: Tensor  # (S, B, *latent_shape)
    gt_weight: Tensor  # (B, S)
    known: Sequence[bool]
    before: tuple[Tensor, Tensor]
    detach: bool
    feed: Feed | None
    correct: Feed | None

    def part(self, steps: slice) -> Clip:
        """Some of the steps; `before` must already be that of the first of them."""
        both = slice(steps.start, steps.stop + 1)
        return replace(self, x=self.x[both], cond=self.cond[both], eps=self.eps[steps],
                       gt_weight=self.gt_weight[:, steps], known=self.known[steps])  # fmt: skip

    def inputs(self, piece: slice, x_pred: Tensor, x_last: Tensor) -> Tensor:
        """The inputs (k * B, …) of a piece; x_pred, x_last (B, …): the prediction and the input just before it."""
        t = piece.start
        x_in = self.x[piece].flatten(0, 1)
        if not self.known[t]:
            back = x_pred.detach() if self.detach else x_pred
            back = self.correct(back, x_last) if self.correct else back
            x_in = torch.lerp(back, x_in, self.gt_weight[:, t].view(-1, *[1] * (back.dim() - 1)).to(back.dtype))
        if self.feed is not None:
            x_in = self.feed(x_in, torch.cat([x_last, self.x[t : piece.stop - 1].flatten(0, 1)]))
        return x_in
