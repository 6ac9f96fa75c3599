"""PSNR frame by frame: curves with their baselines, the band over seeds, and the frames that cause the dips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lab4_core.errors import Lab4Error
from lab4_core.media import error_map, to_uint8
from lab4_core.plots.style import BASELINES, GREY, legend_below, line_look, message, plain, styled

# two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom
T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010,
    2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739,
    2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def band(curves: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S, T) curves of S seeds -> mean, low and high, (T,) each: the 95 % confidence interval of the mean by Student's
    t, m -+ t sd / sqrt(S). It says how uncertain the mean is, not how far off one more seed may be.

    Raises `Lab4Error` for fewer than two seeds, which give no interval.
    """
    curves = np.asarray(curves, float)
    if curves.ndim != 2 or len(curves) < 2:
        raise Lab4Error(f"curves of shape {curves.shape}: expected (seeds, frames) with 2 seeds or more")
    mean, half = curves.mean(0), student_t(len(curves) - 1) * curves.std(0, ddof=1) / np.sqrt(len(curves))
    return mean, mean - half, mean + half


def student_t(df: int) -> float:
    """The bound that |t| with `df` degrees of freedom, 1 or more, stays within in 95 % of cases."""
    return T95[df - 1] if df <= len(T95) else 1.960 + 2.372 / df  # the next term of the expansion in 1/df


def smooth(curve: np.ndarray, width: int = 15) -> np.ndarray:
    """Centred moving average over `width` frames; at the ends over as many as there are."""
    width = min(width, len(curve))
    kernel = np.ones(width)
    return np.convolve(curve, kernel, "same") / np.convolve(np.ones(len(curve)), kernel, "same")


def dips(curve: np.ndarray, k: int = 6, apart: int = 15) -> list[int]:
    """The indices of the `k` deepest dips of a (T,) curve, deepest first: values that are the lowest within `apart`
    frames on both sides, and lower than the curve's mean. A short curve may have fewer, a flat one has none."""
    found: list[int] = []
    below = curve.mean() - 1e-6  # dB; the mean of equal numbers may differ from them in its last digit
    for t in np.argsort(curve, kind="stable"):
        lowest = curve[t] <= np.min(curve[max(0, t - apart) : t + apart + 1])
        if lowest and curve[t] < below and all(abs(t - other) > apart for other in found):
            found.append(int(t))
    return found[:k]


def clip_curve(values: np.ndarray, clip: int | None) -> np.ndarray:
    """(N, T) -> (T,): one clip's curve, or the mean over all clips."""
    if clip is not None and not 0 <= clip < len(values):
        raise Lab4Error(f"clip = {clip}: expected 0 to {len(values) - 1}, or nothing for the mean over clips")
    return np.asarray(values, float).mean(0) if clip is None else np.asarray(values[clip], float)


@styled
def plot_psnr_per_frame(
    scores: Mapping[str, Any], *, clip: int | None = None, width: int = 15, n_dips: int = 4, n_past: int = 1,
    dips_of: str | None = None,
) -> Figure:  # fmt: skip
    """PSNR against the number of the predicted frame.

    scores: name -> `Score`, drawn thin with its moving average over `width` frames (fewer where the clip has not eight
    times as many); or name -> list of `Score`s of several seeds, drawn as their mean with its 95 % band, both smoothed.
    clip: which clip, by default the mean over all. The baselines of the first score are grey, drawn in the same way.
    Triangles mark the `n_dips` deepest dips of the curve `dips_of`, by default the first. n_past: how many frames are
    given, and so the number of the first predicted one. Raises `Lab4Error` for scores of different lengths.
    """
    groups = {name: list(s) if isinstance(s, (list, tuple)) else [s] for name, s in scores.items()}
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        return message("nothing to draw yet: no run has been scored")
    marked, (first, *_) = next(iter(groups.items()))
    marked, width = dips_of or marked, min(width, first.psnr.shape[1] // 8 | 1)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    ax = figure.subplots()
    for key, (name, dash) in BASELINES.items():
        if key in first.baselines:
            curve = clip_curve(first.baselines[key]["psnr"], clip)
            if key == "repeat_first" and n_past > 1:
                name = "repeat the last given frame"
            x = n_past + np.arange(len(curve))
            label = f"{name}, mean {curve.mean():.2f} dB"
            ax.plot(x, curve, color=GREY, linewidth=0.5, alpha=0.35)
            ax.plot(x, smooth(curve, width), color=GREY, linestyle=dash, linewidth=1.3, label=label)
    highest = 0.0
    for i, (name, group) in enumerate(groups.items()):
        curves = [clip_curve(score.psnr, clip) for score in group]
        if len({len(c) for c in curves}) > 1:
            raise Lab4Error(f"{name}: scores of {sorted({len(c) for c in curves})} frames; expected one length")
        x, look = n_past + np.arange(len(curves[0])), line_look(i)
        mean = np.mean(curves, axis=0)
        highest = max(highest, mean.max())
        label = f"{plain(name)}, mean {mean.mean():.2f} dB"
        if len(curves) > 1:
            _, low, high = band([smooth(c, width) for c in curves])
            ax.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)
            label += f" ({len(curves)} seeds, 95 % band)"
        else:
            ax.plot(x, mean, color=look["color"], linewidth=0.6, alpha=0.45)
        ax.plot(x, smooth(mean, width), label=label, **look)
        if name == marked:
            at = dips(mean, n_dips)
            ax.plot(x[at], mean[at], "v", color=look["color"], markersize=6, zorder=5)
            for t in at:
                ax.annotate(str(x[t]), (x[t], mean[t]), (0, -13), textcoords="offset points", ha="center", fontsize=8)
    which = f"clip {clip}" if clip is not None else f"mean of {len(first.psnr)} clips" if len(first.psnr) > 1 else ""
    smoothed = f" (thin: each one; thick: moving average over {width})" if width > 1 else ""
    ax.set(xlabel=f"frame{smoothed}", ylabel="PSNR (dB)",
           title=f"PSNR per predicted frame{', ' * bool(which)}{which}")  # fmt: skip
    ax.margins(x=0.02, y=0.1)
    # in a still clip a baseline has 100 dB for a while, which would flatten the curves: let it leave the picture
    ax.set_ylim(top=min(ax.get_ylim()[1], 1.4 * highest))
    legend_below(figure, ax)
    return figure


@styled
def plot_dips(
    score: Any, pred: Any, truth: Any, cond: Any = None, *, k: int = 6, clip: int = 0, limit: float = 0.25
) -> Figure:
    """The `k` deepest dips of one clip beside the frames that cause them: prediction, truth, pose and absolute error.

    pred, truth, cond: that clip's T frames, the given ones included (`media.to_uint8`); cond None, or numbers rather
    than images, leaves its row out. limit: the error (of 1) at the top of the colour scale. Columns are in order of
    time. Raises `Lab4Error` when the frames do not belong to the score.
    """
    curve = clip_curve(score.psnr, clip)
    pred, truth = to_uint8(pred), to_uint8(truth)
    n_past = len(pred) - len(curve)
    if n_past < 1 or len(truth) != len(pred):
        raise Lab4Error(
            f"{len(pred)} predicted and {len(truth)} true frames for {len(curve)} scored ones: "
            "expected the given frames and the scored ones in both"
        )
    rows = {"prediction": pred, "ground truth": truth}
    if cond is not None and np.ndim(cond) == 4:
        rows["pose"] = to_uint8(cond)
    rows["error"] = error_map(pred, truth, limit)
    at = sorted(dips(curve, k))
    h, w = pred.shape[1:3]
    wide = 8.6 / max(len(at), 3)  # inches per picture; names and colour bar take the rest
    figure = Figure(figsize=(10.5, len(rows) * (wide * h / w + 0.06) + 0.9), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, hspace=0)
    axes = figure.subplots(len(rows), len(at), squeeze=False)
    for i, (name, frames) in enumerate(rows.items()):
        for ax, t in zip(axes[i], at):
            ax.imshow(frames[n_past + t], interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(visible=True, color="#bebebe")
        axes[i, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, t in zip(axes[0], at):
        ax.set_title(f"frame {n_past + t}\n{curve[t]:.1f} dB ({curve[t] - curve.mean():+.1f})", fontsize=9)
    figure.supxlabel(f"in brackets: difference from the clip's mean of {curve.mean():.1f} dB", fontsize=9)
    colours = ScalarMappable(Normalize(0, limit), "magma")  # those of `media.error_map`
    scale = figure.colorbar(colours, ax=axes, shrink=0.7, pad=0.01, extend="max")
    scale.set_label("absolute error (of 1)", fontsize=9)
    return figure
