"""What an evaluation came to: numbers only, so that reading a run needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Score:
    """An evaluation: psnr and ssim are (N, S) for N clips of S predicted frames, beside the same of each
    baseline, and the protocol they were measured under."""

    psnr: np.ndarray
    ssim: np.ndarray
    baselines: dict[str, dict[str, np.ndarray]]
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean PSNR over clips and frames, dB."""
        return float(self.psnr.mean())

    def summary(self) -> dict[str, Any]:
        """Plain numbers for result.json."""
        return {
            "psnr": round(self.mean, 4),
            "ssim": round(float(self.ssim.mean()), 5),
            "baselines": {
                name: {k: round(float(v.mean()), 5) for k, v in scores.items()}
                for name, scores in self.baselines.items()
            },
            "protocol": self.protocol,
        }

    def _repr_html_(self) -> str:
        rows = [("this model", {"psnr": self.psnr, "ssim": self.ssim}), *self.baselines.items()]
        body = "".join(
            f"<tr><td>{name.replace('_', ' ')}</td><td>{s['psnr'].mean():.2f}</td><td>{s['ssim'].mean():.3f}</td></tr>"
            for name, s in rows
        )
        n, t = self.psnr.shape
        return (
            f"<table><caption>mean over {n} clip{'s' * (n > 1)} of {t} predicted frames</caption>"
            f"<tr><th>predictor</th><th>PSNR (dB)</th><th>SSIM</th></tr>{body}</table>"
        )

    def __repr__(self) -> str:
        base = ", ".join(f"{k} {v['psnr'].mean():.2f}" for k, v in self.baselines.items())
        return f"Score({self.mean:.2f} dB PSNR; {base})"
