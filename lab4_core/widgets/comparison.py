"""Runs overlaid: which runs, which quantity, against what, how much smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lab4_core.errors import Lab4Error
from lab4_core.plots.psnr import clip_curve, smooth
from lab4_core.plots.style import as_runs, labels, legend_below, line_look, message, plain, styled
from lab4_core.plots.training import column, draw, from_zero, scale_y
from lab4_core.widgets.knobs import Choice, Knobs, Several, Slider

QUANTITIES = {  # label -> kind of record, field, unit
    "loss": ("step", "loss", "reconstruction + β x KL"),
    "reconstruction": ("step", "mse", "squared error, as in the loss"),
    "KL": ("step", "kld", "nats, as in the loss"),
    "β": ("step", "beta", "weight of the KL"),
    "teacher forcing": ("step", "tfr", "share of the truth"),
    "learning rate": ("step", "lr", "per step"),
    "validation PSNR": ("eval", "psnr", "dB"),
    "PSNR per frame": ("score", "psnr", "dB"),
}
AXES = {"step": "step", "minutes": "seconds"}


def series(run: Any, quantity: str, against: str = "step") -> tuple[np.ndarray, np.ndarray]:
    """x and y of one run's curve, both (N,); empty if it has logged nothing of the kind."""
    if quantity not in QUANTITIES or against not in AXES:
        raise Lab4Error(
            f"quantity {quantity!r} against {against!r}: expected one of {', '.join(QUANTITIES)}, "
            f"against {' or '.join(AXES)}"
        )
    kind, field, _ = QUANTITIES[quantity]
    if kind == "score":
        score = run.scores()
        y = np.empty(0) if score is None else clip_curve(score.psnr, None)
        return run.config.n_past + np.arange(len(y)), y
    records = run.metrics(kind)
    x = column(records, AXES[against])
    return (x / 60 if against == "minutes" else x), column(records, field)


@styled
def overlay(runs: Sequence[Any], quantity: str, against: str = "step", smoothing: int = 1) -> Figure:
    """One curve per run. smoothing: how many neighbouring points are averaged; 1 shows the log unchanged."""
    drawn = {name: series(run, quantity, against) for run, name in zip(runs, labels(runs))}
    drawn = {name: (x, y) for name, (x, y) in drawn.items() if len(y)}
    if not drawn:
        return message(f"nothing to draw: {quantity} of {len(runs)} run(s)")
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.subplots()
    for i, (name, (x, y)) in enumerate(drawn.items()):
        if smoothing > 1:
            ax.plot(x, y, **{**line_look(i), "linewidth": 0.7, "alpha": 0.3})
        draw(ax, x, smooth(y, smoothing) if smoothing > 1 else y, label=plain(name), **line_look(i))
    kind, _, unit = QUANTITIES[quantity]
    from_zero(ax, "frame" if kind == "score" else "minutes of training" if against == "minutes" else "step")
    scale_y(ax)
    ax.set(ylabel=unit, title=quantity)
    legend_below(figure, ax)
    return figure


def compare(runs: Any, *, quantity: str = "validation PSNR", caption: str = "") -> Knobs:
    """Runs to overlay in any selection. quantity: the one shown first. Raises `Lab4Error` if there is no run, and for
    an unknown quantity."""
    runs = as_runs(runs)
    if not runs:
        raise Lab4Error("no run to compare: expected at least one")
    if quantity not in QUANTITIES:
        raise Lab4Error(f"quantity {quantity!r}: expected one of {', '.join(QUANTITIES)}")
    named = dict(zip(unique(labels(runs)), runs))

    def look(chosen: tuple[str, ...], quantity: str, against: str, smoothing: int) -> Figure:
        if not chosen:
            return message("no run is chosen")
        return overlay([named[name] for name in chosen], quantity, against, smoothing)

    knobs = {
        "chosen": Several(tuple(named), tuple(named)),
        "quantity": Choice(quantity, tuple(QUANTITIES)),
        "against": Choice("step", tuple(AXES)),
        "smoothing": Slider(1, 1, 41, 2),
    }
    return Knobs(
        look,
        knobs,
        alt=f"{quantity} of the runs {', '.join(named)}, one curve each",
        caption=caption or f"{quantity.capitalize() if quantity.islower() else quantity} of {len(named)} run(s).",
        labels={"chosen": "runs"},
    )


def unique(names: Sequence[str]) -> list[str]:
    """Names made distinct: those that occur more than once get a number."""
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
