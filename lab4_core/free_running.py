"""Free-running prediction: given frames, then only conditions and z ~ N(0, I)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from lab4_core import accel
from lab4_core.graphs import Graphs, Tensors
from lab4_core.models.base import Feed, VideoPredictor
from lab4_core.registry import check

BLOCK = 16  # steps whose conditions are encoded together, and which a GPU replays as one recording
RECORD_FROM = 8 * BLOCK  # steps; for fewer, recording does not pay: it costs as much as a few blocks


@torch.no_grad()
def rollout(
    model: VideoPredictor,
    past: Tensor,
    cond: Tensor,
    *,
    seed: int = 0,
    z_scale: float = 1.0,
    correct: Feed | None = None,
    dtype: torch.dtype = torch.float32,
    tick: Callable[[int, int], None] = lambda done, total: None,
    graphs: Callable[..., Graphs] | None = None,
) -> Tensor:
    """Predict T - n_past frames of B clips, each from the one before.

    past (B, n_past, C, H, W) in [0, 1]; cond (B, T, …) floats, one condition per frame (a model's `cond_offsets` are
    gathered here) -> (B, T - n_past, C, H, W), not clipped: each prediction is fed back as computed, unless
    `correct(x_pred, x_last)`, both (B, C, H, W), changes it on the way. The model is in eval mode meanwhile.
    z_scale: the standard deviation of z (1: the prior; 0: its mean). dtype: the arithmetic inside the model, fp32 or
    bf16; the frames are fp32 either way. `tick(done, total)` is called after every block of steps. graphs: makes the
    recordings of blocks; by default `Graphs` in a long rollout on a GPU, else none.
    """
    check(0 <= seed < 2**63, "seed", seed, "0 or more, less than 2 to the power of 63")
    was_training = model.training
    model.eval()
    b, total, n_past = cond.shape[0], cond.shape[1], past.shape[1]
    noise = torch.Generator(past.device).manual_seed(seed)
    if graphs is None and accel.records(past.device) and total - n_past >= RECORD_FROM:
        graphs = Graphs
    recorded = _recorded(model, correct, graphs) if graphs else None
    try:
        with accel.autocast(past.device, dtype):  # one context for all steps: the weights are cast once
            state = model.init_state(past, told(model, cond, 0, n_past))
            x, frames = past[:, -1], []
            for begin in range(n_past, total, BLOCK):
                block = told(model, cond, begin, min(begin + BLOCK, total)).transpose(0, 1)
                steps = len(block)  # z is drawn before the block: a recording draws nothing
                z = torch.stack([
                    torch.randn(b, *model.latent_shape, generator=noise, device=past.device) for _ in range(steps)
                ]).mul_(z_scale)  # fmt: skip
                # not the first block, after which the state keeps its form, nor a last one that is shorter
                take = recorded if recorded and begin > n_past and steps == BLOCK else _steps
                made, x, state = take(model, x, state, block, z, correct)
                frames.append(made)
                tick(begin + steps - n_past, total - n_past)
    finally:
        model.train(was_training)
    return torch.cat([block.transpose(0, 1) for block in frames], dim=1)


def _steps(model: VideoPredictor, x: Tensor, state: Any, cond: Tensor, z: Tensor, correct: Feed | None):
    """k steps from x (B, C, H, W), with conditions (k, B, …) and z (k, B, …). Returns the predictions
    (k, B, C, H, W), the last one as it is fed back, and the state after them."""
    c, b, frames = model.encode_cond(cond.flatten(0, 1)), len(x), []
    for t in range(len(cond)):
        x_last = x
        x, state = model.step(x_last, _rows(c, t * b, (t + 1) * b), z[t], state)
        frames.append(x)
        x = correct(x, x_last) if correct else x
    return torch.stack(frames), x, state


def _recorded(model: VideoPredictor, correct: Feed | None, graphs: Callable[..., Graphs]) -> Callable[..., Any]:
    """`_steps` as recordings, for one rollout: while it lasts, the weights and autocast's copies of them keep their
    addresses."""

    def flat(state: Any) -> tuple[Tensors, Any]:
        leaves, form = tree_flatten(state)
        return {f"state {i}": v for i, v in enumerate(leaves) if v is not None}, form

    def body(given: Tensors, form: Any) -> Tensors:
        state = tree_unflatten([given.get(f"state {i}") for i in range(form.num_leaves)], form)
        frames, x, state = _steps(model, given["x"], state, given["cond"], given["z"], correct)
        return {"frames": frames, "x": x} | flat(state)[0]

    recordings = graphs(body, list)

    def take(model, x, state, cond, z, correct):
        given, form = flat(state)
        made = recordings({"x": x, "cond": cond, "z": z} | given, form)
        return made["frames"], made["x"], tree_unflatten([made.get(f"state {i}") for i in range(form.num_leaves)], form)

    return take


def told(model: VideoPredictor, cond: Tensor, begin: int, end: int) -> Tensor:
    """What the model gets for the frames begin .. end - 1 of clips with these conditions (B, T, C, …): those at its
    `cond_offsets`, the clip's first and last repeated beyond its ends: (B, end - begin, len(cond_offsets) * C, …)."""
    index = torch.arange(begin, end, device=cond.device)
    return torch.cat([cond[:, (index + o).clamp(0, cond.shape[1] - 1)] for o in model.cond_offsets], dim=2)


def _rows(c, begin: int, end: int):
    return tuple(v[begin:end] for v in c) if isinstance(c, tuple) else c[begin:end]
