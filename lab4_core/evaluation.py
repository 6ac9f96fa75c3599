"""Scoring a model on clips whose frames are known, by free-running prediction."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from lab4_core import accel
from lab4_core.config import Config
from lab4_core.data import Clips, to_float
from lab4_core.errors import Lab4Error
from lab4_core.free_running import rollout
from lab4_core.metrics import SSIM_WINDOW, baseline_frames, brightness_per_frame, frame_scores
from lab4_core.models.base import VideoPredictor
from lab4_core.registry import check
from lab4_core.scores import Score
from lab4_core.strategies import correction

LOWER_IS_BETTER = ("lpips",)
AT_ONCE = 64  # clips predicted as one batch: thousands, as in BAIR, would not fit in memory


def clip_batch(
    clips: Clips, frames: int, device: torch.device, which: slice = slice(None)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips as one batch (N, T, …) of floats: their first `frames` frames, or as many as the shortest clip has.
    which: the clips to take."""
    t = min(frames, *(b - a for a, b in clips.spans))
    x = torch.stack([clips.frames[a : a + t] for a in clips.starts[which]])
    c = torch.stack([clips.cond[a : a + t] for a in clips.starts[which]])
    return to_float(x.to(device)), to_float(c.to(device))


def check_lengths(clips: Clips, cfg: Config, split: str) -> None:
    """Raises `Lab4Error` when a clip has nothing after the given frames, or frames too small to be scored: better
    before training than after it."""
    shortest = min(b - a for a, b in clips.spans)
    if shortest <= cfg.n_past:
        raise Lab4Error(f"{split}: clips of {shortest} frames; expected more than n_past = {cfg.n_past}")
    if min(clips.frames.shape[2:]) < SSIM_WINDOW:
        raise Lab4Error(f"{split}: frames of {' x '.join(map(str, clips.frames.shape[2:]))} pixels; expected "
                        f"{SSIM_WINDOW} or more either way, the window of SSIM")  # fmt: skip


def predict_clips(
    model: VideoPredictor,
    past: torch.Tensor,
    cond: torch.Tensor,
    cfg: Config,
    *,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> torch.Tensor:
    """`rollout` with the z_scale, the precision and the strategies of a run's configuration."""
    how = {"seed": seed, "z_scale": cfg.z_scale, "correct": correction(cfg.strategies, rollouts=True), "tick": tick,
           "dtype": accel.pick_precision(cfg.precision, past.device)}  # fmt: skip
    predict = partial(rollout, model, **how)
    for strategy in cfg.strategies:
        predict = partial(strategy.roll_out, predict, model)
    return predict(past, cond)


def score_model(
    model: VideoPredictor,
    clips: Clips,
    cfg: Config,
    device: torch.device,
    *,
    split: str = "val",
    samples: int | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
    lpips: Any = None,
    fvd: Any = None,
) -> Score:
    """Predict every clip from its first `n_past` frames and its conditions, z ~ N(0, I), and score each frame.

    The true frames after the given ones are used only for scoring. With several samples the score is the mean of
    theirs; that of each clip's best sample, the papers' measure, is reported beside it. lpips, fvd: an `Lpips` and an
    `Fvd` to score with as well, if their weights are available. The protocol records all of this.
    """
    check_lengths(clips, cfg, split)
    n, n_past, samples = len(clips.starts), cfg.n_past, cfg.eval_samples if samples is None else samples
    check(samples >= 1, "samples", samples, "1 or more")
    rows = defaultdict(list)  # of each predictor: its scores of every batch of clips, the model's sample by sample
    features = defaultdict(list)  # likewise, of whole clips, for FVD
    for begin in range(0, n, AT_ONCE):
        truth, cond = clip_batch(clips, cfg.eval_frames, device, slice(begin, begin + AT_ONCE))
        past, future = truth[:, :n_past], truth[:, n_past:]
        seeds = (s + samples * begin for s in range(samples))
        own = (("this model", predict_clips(model, past, cond, cfg, seed=seed, tick=tick)) for seed in seeds)
        for name, pred in itertools.chain(own, baseline_frames(truth, n_past).items()):
            row = frame_scores(pred, future, cfg.psnr)
            if name == "this model":
                row["brightness"] = brightness_per_frame(pred, future).cpu().numpy()
            with accel.no_tf32():
                if lpips is not None:
                    row["lpips"] = lpips(pred, future).cpu().numpy()
                if fvd is not None:
                    features[name].append(fvd.features(torch.cat([past, pred], 1)))
            rows[name].append(row)
        if fvd is not None:
            with accel.no_tf32():
                features["truth"].append(fvd.features(truth))
    protocol = {
        "split": clips.called or split,
        "clips": n,
        "n_past": n_past,
        "scored_frames": f"{n_past}..{truth.shape[1] - 1}",
        "z": f"{model.prior_name} x {cfg.z_scale:g}, never from the true frame",
        "samples": f"{samples}, scores averaged" + ("; best sample: of each clip, by its mean" if samples > 1 else ""),
        "psnr": "range 1.0, predictions clipped to [0, 1], mean of the dB of each "
        + ("channel of each frame" if cfg.psnr == "channel" else "frame"),
        "ssim": "Gaussian window of 11 pixels, sigma 1.5, mean over channels and places (Wang et al. 2004)",
    }
    if views := "; ".join(s.averages for s in cfg.strategies if s.averages):
        protocol["rollouts"] = views
    if lpips is not None:
        protocol["lpips"] = lpips.protocol
    if fvd is not None:
        protocol["fvd"] = f"whole clips, given frames too, {samples * n} predicted against {n} true; {fvd.protocol}"
    made = [_joined(rows["this model"][s::samples]) for s in range(samples)]
    all_scores = {k: np.stack([sample[k] for sample in made]) for k in made[0]}  # (samples, N, S)
    baselines = {name: _joined(row) for name, row in rows.items() if name != "this model"}
    means = {k: v.mean(0, dtype=np.float64).astype(np.float32) for k, v in all_scores.items()}
    ranked = {k: v for k, v in all_scores.items() if k != "brightness"}
    best = {k: _best(v, k in LOWER_IS_BETTER) for k, v in ranked.items()} if samples > 1 else {}
    return Score(**means, baselines=baselines, protocol=protocol, best_of=best, fvd=_distances(fvd, features))


def _best(scores: np.ndarray, lowest: bool) -> np.ndarray:
    """(samples, N, S) -> (N, S): for each clip, the sample with the best mean."""
    means = scores.mean(2)
    return scores[means.argmin(0) if lowest else means.argmax(0), np.arange(scores.shape[1])]


def _distances(fvd: Any, features: dict[str, list[torch.Tensor]]) -> dict[str, float]:
    """The FVD of every predictor against the truth."""
    whole = {name: torch.cat(parts) for name, parts in features.items()}
    truth = whole.pop("truth", None)
    return {name: fvd.distance(found, truth) for name, found in whole.items()}


def _joined(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}
