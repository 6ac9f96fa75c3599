"""What an evaluation came to: numbers only, so that reading a run needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Score:
    """An evaluation: psnr and ssim are (N, S) for N clips of S predicted frames, beside the same of each
    baseline, and the protocol they were measured under. With several samples of z, psnr and ssim are their means and
    best_of those of each clip's best sample (the one of the highest mean PSNR, the one of the highest mean SSIM)."""

    psnr: np.ndarray
    ssim: np.ndarray
    baselines: dict[str, dict[str, np.ndarray]]
    protocol: dict[str, Any] = field(default_factory=dict)
    best_of: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean PSNR over clips and frames, dB."""
        return float(self.psnr.mean())

    @property
    def rows(self) -> dict[str, dict[str, np.ndarray]]:
        """The model, its best samples where there are several, and the baselines, by their names."""
        best = {"best sample": self.best_of} if self.best_of else {}
        return {"this model": {"psnr": self.psnr, "ssim": self.ssim}, **best, **self.baselines}

    def summary(self) -> dict[str, Any]:
        """Plain numbers for result.json."""
        return {
            "psnr": round(self.mean, 4),
            "ssim": round(float(self.ssim.mean()), 5),
            "baselines": {
                name: {k: round(float(v.mean()), 5) for k, v in scores.items()}
                for name, scores in self.baselines.items()
            },
            **({"best_of": {k: round(float(v.mean()), 5) for k, v in self.best_of.items()}} if self.best_of else {}),
            "protocol": self.protocol,
        }

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td>{escape(name.replace('_', ' '))}</td>"
            f"<td>{s['psnr'].mean():.2f}</td><td>{s['ssim'].mean():.3f}</td></tr>"
            for name, s in self.rows.items()
        )
        n, t = self.psnr.shape
        return (
            f"<table><caption>mean over {n} clip{'s' * (n > 1)} of {t} predicted frames</caption>"
            f"<tr><th>predictor</th><th>PSNR (dB)</th><th>SSIM</th></tr>{body}</table>"
        )

    def __repr__(self) -> str:
        base = ", ".join(f"{k} {v['psnr'].mean():.2f}" for k, v in self.baselines.items())
        return f"Score({self.mean:.2f} dB PSNR; {base})"
