"""The result of an evaluation: numbers only, so that reading a run needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

# what may be measured -> its title and the format of its numbers
MEASURES = {"psnr": ("PSNR (dB)", ".2f"), "ssim": ("SSIM", ".3f"), "lpips": ("LPIPS", ".4f"), "fvd": ("FVD", ".1f")}


@dataclass(frozen=True)
class Score:
    """An evaluation: psnr and ssim are (N, S) for N clips of S predicted frames; baselines has the same for each
    baseline, and protocol says how they were measured. With several samples of z, psnr and ssim are the means over
    them, and best_of has those of each clip's best sample (of the highest mean PSNR, or of the highest mean SSIM).

    If weights were given for them: lpips is (N, S) too, also in baselines and best_of (there the lowest mean is best);
    fvd is one number for each row of `rows` except the best sample.

    brightness (N, S) is the mean of a predicted frame minus that of the true one, on the scale [0, 1]."""

    psnr: np.ndarray
    ssim: np.ndarray
    baselines: dict[str, dict[str, np.ndarray]]
    protocol: dict[str, Any] = field(default_factory=dict)
    best_of: dict[str, np.ndarray] = field(default_factory=dict)
    lpips: np.ndarray | None = None
    fvd: dict[str, float] = field(default_factory=dict)
    brightness: np.ndarray | None = None

    @property
    def drift(self) -> dict[str, float]:
        """What a rollout loses on its way: `psnr`, the slope of the mean PSNR along the clip in dB per 100 frames
        (least squares), and, where known, `brightness`: the mean of the last 100 frames minus the true one, in grey
        levels of 255. Empty for fewer than 100 frames, whose slope says little."""
        curve = self.psnr.mean(0, dtype=np.float64)
        if len(curve) < 100 or not np.isfinite(curve).all():
            return {}
        drift = {"psnr": 100 * float(np.polyfit(np.arange(len(curve)), curve, 1)[0])}
        if self.brightness is not None:
            drift["brightness"] = 255 * float(self.brightness[:, -100:].mean(dtype=np.float64))
        return drift

    @property
    def drift_text(self) -> str:
        """The drift in words, "" if there is none."""
        drift = self.drift
        parts = [f"{drift['psnr']:+.2f} dB per 100 frames"] if drift else []
        if "brightness" in drift:
            parts.append(f"brightness of the last 100 frames {drift['brightness']:+.1f} of 255 grey levels")
        return ", ".join(parts)

    @property
    def mean(self) -> float:
        """Mean PSNR over clips and frames, dB."""
        return float(self.psnr.mean())

    @property
    def rows(self) -> dict[str, dict[str, np.ndarray]]:
        """The scores of the model, of its best samples if there are several, and of the baselines, by name."""
        best = {"best sample": self.best_of} if self.best_of else {}
        lpips = {} if self.lpips is None else {"lpips": self.lpips}
        return {"this model": {"psnr": self.psnr, "ssim": self.ssim, **lpips}, **best, **self.baselines}

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """The rows' means over clips and frames, by name, with their FVD where it was computed."""
        means = {name: {k: float(v.mean()) for k, v in row.items()} for name, row in self.rows.items()}
        for name, distance in self.fvd.items():
            means[name]["fvd"] = distance
        return means

    def summary(self) -> dict[str, Any]:
        """Plain numbers for result.json."""
        rows = {name: {k: round(v, 5) for k, v in row.items()} for name, row in self.means.items()}
        own, best = rows.pop("this model"), rows.pop("best sample", None)
        return {
            **own,
            "psnr": round(self.mean, 4),
            "baselines": rows,
            **({"drift": {k: round(v, 3) for k, v in self.drift.items()}} if self.drift else {}),
            **({"best_of": best} if best else {}),
            "protocol": self.protocol,
        }

    def _repr_html_(self) -> str:
        rows = self.means
        shown = {k: v for k, v in MEASURES.items() if k in rows["this model"]}
        number = 'style="text-align:right"'
        head = "".join(f'<th scope="col" {number}>{title}</th>' for title, _ in shown.values())
        body = "".join(
            f"<tr>{_name(name.replace('_', ' '))}"
            + "".join(f"<td {number}>{format(row[k], f) if k in row else '–'}</td>" for k, (_, f) in shown.items())
            + "</tr>"
            for name, row in rows.items()
        )
        protocol = "".join(
            f'<tr>{_name(key)}<td style="text-align:left">{escape(str(value))}</td></tr>'
            for key, value in self.protocol.items()
        )
        n, t = self.psnr.shape
        return (
            f'<table><thead><tr><th scope="col" style="text-align:left">predictor</th>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table><p>Mean over {n} clip{'s' * (n > 1)} of {t} predicted frames"
            f"{'; drift: ' * bool(self.drift)}{self.drift_text}.</p>"
            # open, for nobody can open it on paper
            + f"<details open><summary>Protocol</summary><table><tbody>{protocol}</tbody></table></details>"
            * bool(protocol)
        )

    def __repr__(self) -> str:
        base = ", ".join(f"{k} {v['psnr'].mean():.2f}" for k, v in self.baselines.items())
        return f"Score({self.mean:.2f} dB PSNR; {base})"


def _name(words: str) -> str:
    """The first cell of a row, which names it."""
    return f'<th scope="row" style="text-align:left;font-weight:normal">{escape(words)}</th>'
