"""Scoring a model on clips whose frames are known, by free-running prediction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lab4_core.config import Config
from lab4_core.data import Clips, to_float
from lab4_core.errors import Lab4Error
from lab4_core.free_running import rollout
from lab4_core.metrics import baselines, frame_scores
from lab4_core.models.base import VideoPredictor
from lab4_core.scores import Score


def clip_batch(clips: Clips, frames: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The clips as one batch (N, T, …) of floats: their first `frames` frames, or as many as the shortest has."""
    t = min(frames, *(b - a for a, b in clips.spans))
    x = torch.stack([clips.frames[a : a + t] for a, _ in clips.spans])
    c = torch.stack([clips.cond[a : a + t] for a, _ in clips.spans])
    return to_float(x.to(device)), to_float(c.to(device))


def score_model(
    model: VideoPredictor,
    clips: Clips,
    cfg: Config,
    device: torch.device,
    *,
    split: str = "val",
    samples: int | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Predict every clip from its first `n_past` frames and its conditions, z ~ N(0, I), and score each frame.

    The true frames after the given ones are used for nothing but the score. With several samples the scores of
    the samples are averaged (not the pictures, and no best one is picked). The protocol says all of this.
    """
    truth, cond = clip_batch(clips, cfg.eval_frames, device)
    if truth.shape[1] <= cfg.n_past:
        raise Lab4Error(f"{split}: clips of {truth.shape[1]} frames; expected more than n_past = {cfg.n_past}")
    samples = samples or cfg.eval_samples
    target = truth[:, cfg.n_past :]
    runs = []
    for seed in range(samples):
        pred = rollout(model, truth[:, : cfg.n_past], cond, seed=seed, z_scale=cfg.z_scale, tick=tick)
        runs.append(frame_scores(pred, target))
    protocol = {
        "split": split,
        "clips": len(truth),
        "n_past": cfg.n_past,
        "scored_frames": f"{cfg.n_past}..{truth.shape[1] - 1}",
        "z": f"N(0, I) x {cfg.z_scale:g}, never from the true frame",
        "samples": f"{samples}, scores averaged",
        "psnr": "range 1.0, predictions clipped to [0, 1], mean of the dB of each frame",
    }
    psnr, ssim = (np.mean([r[k] for r in runs], axis=0, dtype=np.float64).astype(np.float32) for k in ("psnr", "ssim"))
    return Score(psnr, ssim, baselines(truth, cfg.n_past), protocol)
