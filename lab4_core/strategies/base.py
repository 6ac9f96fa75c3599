"""What a strategy is: configuration, and hooks into training that do nothing unless overridden.

The object never changes; what a strategy must remember is in a dict of tensors that the checkpoint keeps. All its
random draws come from the generator it is given, which is seeded by the step: so strategies compose in the order they
are listed, and a resumed run draws what an uninterrupted one would have drawn. On a GPU `during`, `correct` and `feed`
become part of a recording (`graphs.py`): whatever changes from step to step must be a tensor there, and nothing may be
read back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lab4_core.data.store import Clips


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """The hooks, roughly in the order in which they are called (in a step, `augment` comes before `jump`).

    jumps, augments, feeds and corrects say which hooks are overridden: those need work before they can be called.
    augments_apart, corrects_rollouts and averages are for a strategy to set, see `augment`, `correct` and `roll_out`.
    """

    jumps = augments = feeds = corrects = False
    augments_apart = False
    corrects_rollouts = False
    averages = ""

    def __init_subclass__(cls, **more):
        super().__init_subclass__(**more)
        for flag, hook in (("jumps", "jump"), ("augments", "augment"), ("feeds", "feed"), ("corrects", "correct")):
            setattr(cls, flag, getattr(cls, hook) is not getattr(Strategy, hook))

    def initialize(self, model: nn.Module) -> None:
        """Called with new weights, drawn from the seed; a model that knows the scene is given it afterwards."""

    def start(self, model: nn.Module) -> dict[str, Tensor]:
        """The strategy's memory before the first step. Raises `Lab4Error` for a model it cannot work with."""
        return {}

    def jump(self, clips: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B,) bool each: the training clips whose first frame and condition come from elsewhere in the clip, and those
        whose own first frame replaces the reference frame."""
        return torch.zeros((2, clips), dtype=torch.bool, device=rng.device).unbind()

    def augment(
        self, frames: Tensor, cond: Tensor, clips: Clips, progress: float, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The training clips (B, T, C, H, W) in [0, 1] and their conditions (B, T, …), changed alike in every frame.
        If the model has a reference frame, or a strategy jumps, those frames are the last of the T, or with
        `augments_apart` come in separate calls. clips: the training set.  progress: share of the training done."""
        return frames, cond

    def during(self, model: nn.Module, rng: torch.Generator) -> AbstractContextManager:
        """Entered around the model's forward pass."""
        return nullcontext()

    def correct(self, x_pred: Tensor, x_last: Tensor) -> Tensor:
        """A prediction (M, C, H, W) on its way back to the input; x_last is the input it was made from. No random
        draws: with `corrects_rollouts`, the rollouts of evaluations call it too."""
        return x_pred

    def feed(self, x_in: Tensor, x_last: Tensor, rng: torch.Generator) -> Tensor:
        """The frame the model is about to see as its input (M, C, H, W) in [0, 1]; x_last is the input before it, or
        where that was a true frame, this frame as it was before `feed`."""
        return x_in

    def roll_out(
        self, rollout: Callable[[Tensor, Tensor], Tensor], model: nn.Module, past: Tensor, cond: Tensor
    ) -> Tensor:
        """The free-running prediction (B, S, C, H, W) of clips from their given frames (B, n_past, C, H, W) and
        conditions (B, n_past + S, …): rollout(past, cond), which may be called for other clips too, and more than
        once. `averages` describes what is done, for the protocol of a score."""
        return rollout(past, cond)

    def after_step(self, model: nn.Module, state: dict[str, Tensor], step: int) -> None:
        """Called after the optimizer's step number `step`, counted from 0."""

    def after_epoch(self, model: nn.Module, state: dict[str, Tensor], epoch: int, epochs: int) -> None:
        """Called after epoch number `epoch` of `epochs`, counted from 0, before the evaluation."""

    def eval_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Weights to evaluate and keep instead of the trained ones, or None."""
        return None


def correction(strategies: Sequence[Strategy], rollouts: bool = False) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What the strategies do to a prediction that is fed back, in training or in rollouts: correct(x_pred, x_last),
    both (M, C, H, W); None if they do nothing."""
    chosen = [s for s in strategies if (s.corrects_rollouts if rollouts else s.corrects)]

    def correct(x_pred: Tensor, x_last: Tensor) -> Tensor:
        for strategy in chosen:
            x_pred = strategy.correct(x_pred, x_last)
        return x_pred

    return correct if chosen else None
