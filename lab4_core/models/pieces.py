"""The steps of a training clip in pieces, and going backward through one piece while the others wait.

A graph of all steps holds the activations of all steps. Where no step needs the graph of another, each can go backward
as soon as it has been computed, and its activations are free before the next one begins. What the steps take from the
encoders, which ran for all of them in one call, is cut from the encoders' graph; what comes back to the cuts is
collected there, and goes on through the encoders in one backward pass, with the gradient of the KL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab4_core.models.base import Feed


def pieces(known: Sequence[bool], longest: int) -> list[slice]:
    """Runs of steps whose inputs are known, at most so long; every other step alone."""
    found: list[slice] = []
    for t, is_known in enumerate(known):
        last = found[-1] if found else None
        if last and is_known and known[t - 1] and t - last.start < longest:
            found[-1] = slice(last.start, t + 1)
        else:
            found.append(slice(t, t + 1))
    return found


@dataclass(frozen=True)
class Inputs:
    """What the model sees as its input: true frames, predictions, or a mixture, as `VideoPredictor.unroll` is told.

    x: the clip, step by step (T, B, …).  known: of each step, whether its input is the true frame throughout.
    """

    x: Tensor
    gt_weight: Tensor
    known: Sequence[bool]
    detach: bool
    feed: Feed | None
    correct: Feed | None

    def __call__(self, piece: slice, x_pred: Tensor, x_last: Tensor) -> Tensor:
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


class Cut:
    """A tensor (M, …) of some graph, handed out in rows that are leaves of graphs of their own."""

    def __init__(self, whole: Tensor):
        self.whole = whole
        self.grad = torch.zeros_like(whole, requires_grad=False) if whole.requires_grad else None

    def dim(self) -> int:
        return self.whole.dim()

    def rows(self, begin: int, end: int) -> Tensor:
        """Rows begin..end - 1. A gradient that comes to them is added to `grad`."""
        rows = self.whole.detach()[begin:end]
        if self.grad is not None:
            rows.requires_grad_(True)
            rows.grad = self.grad[begin:end]  # a leaf's gradient is accumulated in place: here, in the whole
        return rows


def rows(v: Tensor | Cut, begin: int, end: int) -> Tensor:
    """Rows of a tensor, cut or not."""
    return v.rows(begin, end) if isinstance(v, Cut) else v[begin:end]


def mend(value: Tensor, cuts: list[Cut]) -> Tensor:
    """`value` as it is; a backward pass through it takes along what has come to the cuts, once."""
    open_cuts = [cut for cut in cuts if cut.grad is not None]
    return _Mend.apply(value, [cut.grad for cut in open_cuts], *(cut.whole for cut in open_cuts))


class _Mend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, grads: list[Tensor], *wholes: Tensor) -> Tensor:
        ctx.grads = grads
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None, *ctx.grads
