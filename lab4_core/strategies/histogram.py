"""Keeping the light steady: predictions with the histogram of the frame before them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lab4_core.registry import register
from lab4_core.strategies.base import Strategy


@register("strategy", "histogram")
@dataclass(frozen=True, kw_only=True)
class HistogramSpecification(Strategy):
    """Give a prediction that is fed back the histogram of the frame it was made from, channel by channel (report_004,
    against rollouts that darken; Gonzalez and Woods, Digital Image Processing, section 3.3).

    Only predictions are matched, never a ground-truth frame. No gradient passes through the matching: with
    `detach = false` it goes around it (straight through), as if nothing had been matched.
    rollouts: match in evaluation and test rollouts too, not only in training.
    """

    rollouts: bool = False

    @property
    def corrects_rollouts(self) -> bool:
        return self.rollouts

    def correct(self, x_pred, x_last):
        matched = match_histogram(x_pred.detach(), x_last.detach())
        return matched + (x_pred - x_pred.detach())


def match_histogram(source: Tensor, reference: Tensor) -> Tensor:
    """`source` with the values of `reference` (both (…, H, W)), every channel by itself: a value of `source` becomes
    the one at the same quantile of `reference`. Equal values stay equal; between two known quantiles it interpolates,
    as `skimage.exposure.match_histograms` does.

    Sorts and searches on the device; nothing is read back.
    """
    shape, n = source.shape, source.shape[-2] * source.shape[-1]
    s, r = (x.reshape(-1, n).float().contiguous() for x in (source, reference))
    values = r.sort(dim=1).values
    # share of the source's values up to each value; equal values share their highest rank
    quantile = torch.searchsorted(s.sort(dim=1).values, s, right=True).to(torch.float64) / n
    # the reference's quantiles are known at each distinct value, by its highest rank
    high = torch.searchsorted(values, values, right=True)  # (M, n): highest rank of each entry's value
    known = high.to(torch.float64) / n
    # the first entry whose known quantile reaches the wanted one, and the last entry of the value before it
    right = torch.searchsorted(known, quantile).clamp(max=n - 1)
    left = (torch.searchsorted(known, known.gather(1, right)) - 1).clamp(min=0)
    q0, q1 = known.gather(1, left), known.gather(1, right)
    v0, v1 = (values.gather(1, i).double() for i in (left, right))
    along = torch.where(q1 > q0, (quantile - q0) / (q1 - q0).clamp(min=1e-300), 1.0).clamp(0, 1)
    return torch.lerp(v0, v1, along).reshape(shape).to(source.dtype)
