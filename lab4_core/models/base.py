"""The interface that every model implements. The engine knows this file and no model by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

# A change made to a frame before the model sees it as its input: feed(x_in, x_last) -> x_in, both (M, C, H, W); x_last
# is the input of the step before. `correct` does the same to a prediction, before it becomes (part of) the input.
Feed = Callable[[Tensor, Tensor], Tensor]
# settle(x_pred (B, k, C, H, W), kld (B, k), steps) runs the backward pass of the loss of these k steps, there and then
Settle = Callable[[Tensor, Tensor, slice], None]


class Unrolled(NamedTuple):
    """A clip run through the model for training; S = T - 1 predicted frames."""

    x_pred: Tensor  # (B, S, C, H, W)
    kld: Tensor  # (B, S) nats, summed over the latent numbers of a frame
    mu: Tensor  # (B, S, *latent) of the posterior
    logvar: Tensor


class VideoPredictor(nn.Module):
    """A conditional VAE that predicts frame t from frame t-1, z and a condition: that of frame t where it is a pose,
    that of frame t-1 where it is an action.

    `cond` is a pose image or an action vector; nothing here assumes which, nor that H equals W. A model with several
    `cond_offsets` gets the conditions of all of them, concatenated in the first dimension of a condition (channels, or
    numbers). Noise is passed in as `eps`, so an eager run, a resumed run, a captured graph and a test can use the same
    draws.
    """

    latent_shape: tuple[int, ...]  # of one frame's z
    prior_name = "N(0, I)"  # what z is drawn from at test time, in words
    needs_reference = False  # whether unroll needs another frame of the clip, to know what the person looks like
    splits = False  # whether unroll takes `known`, `settle` and `ahead`
    cond_offsets: tuple[int, ...] = (0,)  # for frame t it gets the conditions of the frames t + offset
    least_batch = 1  # clips in the smallest batch it can be trained on
    knows_scene = False  # whether `start_from` is to be called with the training set's empty scene

    def start_from(self, scene: Tensor) -> None:
        """Called once for new weights: what the camera sees when nobody is there (C, H, W) in [0, 1]."""

    def empty_scene(self) -> Tensor:
        """The scene (C, H, W) in [0, 1] as a model that knows it has learnt it by now, without a graph."""
        raise NotImplementedError

    def unroll(
        self,
        frames: Tensor,
        cond: Tensor,
        gt_weight: Tensor,
        eps: Tensor,
        n_past: int = 1,
        *,
        detach: bool = True,
        forced: bool = False,
        reference: tuple[Tensor, Tensor] | None = None,
        feed: Feed | None = None,
        correct: Feed | None = None,
        known: Sequence[bool] | None = None,
        settle: Settle | None = None,
        ahead: bool = False,
    ) -> Unrolled:
        """The training computation on B clips, with z from the posterior.

        frames (B, T, C, H, W) in [0, 1]; cond (B, T, …); gt_weight (B, S), see `teacher_forcing`;
        eps (B, S, *latent_shape); reference: another frame of each clip (B, C, H, W) and its condition (B, …).
        detach: cut the gradient at the prediction that is fed back. forced: gt_weight is 1 throughout, so a model may
        do all steps at once (the same mathematics); the caller knows it without asking the GPU.

        A model that `splits` has further ways to compute the same. known: for each of the S steps, whether its weights
        are all 1, so that such steps can run together. settle: where no step needs the graph of another, each piece is
        settled as soon as it is computed, and what is returned has no graph; so zero the gradients before. ahead: with
        detach, find the inputs first, without a graph, and then run all steps as one batch; for models whose
        encode_frame and decode treat every frame by itself.
        """
        raise NotImplementedError

    def encode_cond(self, cond: Tensor) -> Any:
        """Conditions (M, …) of M frames -> what `step` takes, computed for many steps at once and ahead of them.
        A tensor, or a tuple of tensors, whose first dimension is M."""
        return cond

    def init_state(self, frames_past: Tensor, cond_past: Tensor) -> Any:
        """The state of a rollout after the given frames (B, n_past, C, H, W) and their conditions (B, n_past, …):
        tensors, whose shapes must be fixed from the first step on."""
        raise NotImplementedError

    def step(self, x_prev: Tensor, cond_t: Any, z_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One frame of a rollout: (B, C, H, W), and the next state. Pure. z_t (B, *latent_shape) is the caller's draw
        from N(0, I): z itself, or the noise from which a model with a learned prior makes its z."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Base of the registered `model` parts: the sizes of a model, and how to build it from them.

    conditions: poses (images) or actions (numbers), which decides the data to train on unless a dataset is named."""

    conditions = "poses"

    def build(self, frame_shape: tuple[int, ...], cond_shape: tuple[int, ...]) -> VideoPredictor:
        """frame_shape (C, H, W), cond_shape (3, H, W) or (K,), as the dataset has them. Raises `Lab4Error` where
        they do not fit the model."""
        raise NotImplementedError


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
