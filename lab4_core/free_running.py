"""Free-running prediction: given frames, then only conditions and z ~ N(0, I)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lab4_core import accel
from lab4_core.models.base import VideoPredictor

BLOCK = 64  # steps whose conditions are encoded together: fast, and the features of a long clip are never all in memory


@torch.no_grad()
def rollout(
    model: VideoPredictor,
    past: Tensor,
    cond: Tensor,
    *,
    seed: int = 0,
    z_scale: float = 1.0,
    correct: Callable[[Tensor, Tensor], Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Predict T - n_past frames of B clips, each from the one before.

    past (B, n_past, C, H, W) in [0, 1]; cond (B, T, …) floats, one condition a frame: what a model is told of further
    frames is put together here -> (B, T - n_past, C, H, W), not clipped: what the model computes is what it is fed,
    unless `correct(x_pred, x_last)`, both (B, C, H, W), changes it on the way. The model is
    in eval mode meanwhile. z_scale is the standard deviation of z (1: the prior; 0: its mean). dtype: the arithmetic
    inside the model, fp32 or bf16; the frames are fp32 either way. `tick(done, total)` is called after every block of
    steps.
    """
    was_training = model.training
    model.eval()
    b, total, n_past = cond.shape[0], cond.shape[1], past.shape[1]
    noise = torch.Generator(past.device).manual_seed(seed)
    try:
        with accel.autocast(past.device, dtype):  # one context for all steps: the weights are cast once
            state = model.init_state(past, told(model, cond, 0, n_past))
            x, frames = past[:, -1], []
            for begin in range(n_past, total, BLOCK):
                block = told(model, cond, begin, min(begin + BLOCK, total)).transpose(0, 1)
                c = model.encode_cond(block.flatten(0, 1))
                for t in range(block.shape[0]):
                    z = torch.randn(b, *model.latent_shape, generator=noise, device=past.device) * z_scale
                    x_last = x
                    x, state = model.step(x_last, _rows(c, t * b, (t + 1) * b), z, state)
                    frames.append(x)
                    x = correct(x, x_last) if correct else x
                tick(begin + block.shape[0] - n_past, total - n_past)
    finally:
        model.train(was_training)
    return torch.stack(frames, dim=1)


def told(model: VideoPredictor, cond: Tensor, begin: int, end: int) -> Tensor:
    """What the model is told for the frames begin .. end - 1 of clips with these conditions (B, T, C, …):
    (B, end - begin, len(cond_offsets) * C, …)."""
    index = torch.arange(begin, end, device=cond.device)
    return torch.cat([cond[:, (index + o).clamp(0, cond.shape[1] - 1)] for o in model.cond_offsets], dim=2)


def _rows(c, begin: int, end: int):
    return tuple(v[begin:end] for v in c) if isinstance(c, tuple) else c[begin:end]
