"""PSNR and SSIM per frame, and the two baselines that belong beside every score."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PSNR = 100.0  # for identical frames, instead of infinity: means stay finite
SSIM_WINDOW = 11  # pixels


def psnr_per_frame(pred: Tensor, truth: Tensor, of: str = "frame") -> Tensor:
    """(N, T, C, H, W) in [0, 1] -> (N, T) decibel: 10 log10(1 / MSE) of each frame, at most 100 dB.

    of: "frame" takes the MSE over all values of a frame (the pose lab, Kaggle); "channel" averages the decibels of its
    channels (the BAIR lab and Denton and Fergus 2018), which is never lower.

    Predictions are clipped to [0, 1] first, as they are when they become images. The mean over frames is a mean
    of decibels, as on the lab's leaderboard, not the decibels of a mean error.
    """
    error = (pred.float().clamp(0, 1) - truth.float()).square()
    mse = error.mean(dim=(-2, -1) if of == "channel" else (-3, -2, -1))
    psnr = (-10 * torch.log10(mse.clamp_min(1e-30))).clamp(max=MAX_PSNR)
    return psnr.mean(-1) if of == "channel" else psnr


def ssim_per_frame(pred: Tensor, truth: Tensor, window: int = SSIM_WINDOW, sigma: float = 1.5) -> Tensor:
    """(N, T, C, H, W) in [0, 1] -> (N, T), 1 for identical frames. Gaussian window, mean over channels and
    over the positions where the window fits (Wang et al. 2004, eq. 13, K1 = 0.01, K2 = 0.03)."""
    x, y = pred.float().clamp(0, 1).flatten(0, 1), truth.float().flatten(0, 1)
    c = x.shape[1]
    at = torch.arange(window, dtype=torch.float32, device=x.device) - (window - 1) / 2
    g = torch.exp(-0.5 * (at / sigma) ** 2)
    g = g / g.sum()

    def blur(v: Tensor) -> Tensor:  # separable, one channel at a time
        v = F.conv2d(v, g.view(1, 1, window, 1).expand(c, 1, window, 1), groups=c)
        return F.conv2d(v, g.view(1, 1, 1, window).expand(c, 1, 1, window), groups=c)

    scores = []
    for a, b in zip(x.split(128), y.split(128)):  # a 630-frame clip at once would hold five blurred copies
        mu_a, mu_b = blur(a), blur(b)
        var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
        s = ((2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)) / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4))
        scores.append(s.mean(dim=(1, 2, 3)))
    return torch.cat(scores).view(pred.shape[:2])


def brightness_per_frame(pred: Tensor, truth: Tensor) -> Tensor:
    """Mean of a predicted frame minus that of the true one, (N, T, C, H, W) -> (N, T) on the scale [0, 1]: a rollout
    that fades or darkens drifts away from 0."""
    return pred.float().clamp(0, 1).flatten(2).mean(2) - truth.float().flatten(2).mean(2)


def baseline_frames(truth: Tensor, n_past: int = 1) -> dict[str, Tensor]:
    """What two predictors that ignore the condition give for the frames n_past.. of (N, T, C, H, W).

    repeat_first repeats the last given frame throughout; copy_previous copies the *true* previous frame, which
    no rollout has: it shows how much changes from one frame to the next.
    """
    return {
        "repeat_first": truth[:, n_past - 1 : n_past].expand_as(truth[:, n_past:]),
        "copy_previous": truth[:, n_past - 1 : -1],
    }


def baselines(truth: Tensor, n_past: int = 1, psnr: str = "frame") -> dict[str, dict[str, np.ndarray]]:
    """The scores of `baseline_frames`, by their names."""
    return {name: frame_scores(x, truth[:, n_past:], psnr) for name, x in baseline_frames(truth, n_past).items()}


def frame_scores(pred: Tensor, truth: Tensor, psnr: str = "frame") -> dict[str, np.ndarray]:
    """{"psnr": (N, T), "ssim": (N, T)} as float32 arrays; psnr as in `psnr_per_frame`."""
    return {
        "psnr": psnr_per_frame(pred, truth, psnr).cpu().numpy().astype(np.float32),
        "ssim": ssim_per_frame(pred, truth).cpu().numpy().astype(np.float32),
    }
