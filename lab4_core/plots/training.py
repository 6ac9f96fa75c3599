"""Training as its log shows it: losses, schedules, validation PSNR; and schedules on their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab4_core.clock import moments
from lab4_core.plots.style import BASELINES, GREY, as_runs, labels, legend_below, line_look, message, plain, styled


def column(records: Iterable[Mapping[str, Any]], name: str) -> np.ndarray:
    """One value of every record as floats; NaN, which leaves a gap, where a record has none."""
    return np.array([r[name] if isinstance(r.get(name), (int, float)) else np.nan for r in records], float)


def draw(ax: Axes, x: np.ndarray, y: np.ndarray, **look: Any) -> None:
    """A line; a single point, which a line would not show, as a dot."""
    ax.plot(x, y, marker="o" if np.isfinite(y).sum() == 1 else "", **look)


def from_zero(ax: Axes, xlabel: str) -> None:
    """An x axis from 0 to a little beyond the last point; whole numbers for epochs."""
    ax.set(
        xlabel=xlabel, xlim=(0, 1.04 * max((np.nanmax(line.get_xdata(), initial=0) for line in ax.lines), default=1))
    )
    if "epoch" in xlabel:
        ax.xaxis.get_major_locator().set_params(integer=True)


def scale_y(ax: Axes) -> None:
    """A logarithmic axis if the curves span a factor of 10 and none is negative; linear near zero if they touch it."""
    values = np.concatenate([line.get_ydata() for line in ax.lines] or [np.empty(0)]).astype(float)
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if not positive.size or positive.max() < 10 * positive.min() or (values < 0).any():
        return
    if positive.size == values.size:
        ax.set_yscale("log")
    else:
        ax.set_yscale("symlog", linthresh=float(positive.min()))


def epoch_ends(records: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """(steps, epochs) done at the start of a run and at the end of each epoch, by the epochs' records."""
    return np.array([[0, 0], *([r["step"], r["epoch"] + 1] for r in records)], float)


def epochs_done(records: Sequence[Mapping[str, Any]], ends: np.ndarray) -> np.ndarray:
    """Where each record lies on the axis of epochs: 1.5 is half-way through the second one; NaN after the last."""
    steps = column(records, "step")
    inside = steps <= ends[-1, 0]
    return np.where(inside, np.interp(steps, *ends.T), np.nan)


def scheduled(cfg: Any, ends: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Epochs done, and beta, teacher forcing and learning rate from there on, at every optimizer step so far (or at
    2,000 of them): what a run's schedules say, because its log holds means, which would round off a restart. In the
    early epochs of a run that begins with a part of its data, a schedule that counts steps is drawn as if all were like
    them."""
    at = moments(cfg, ends)
    values = {
        "beta": [cfg.beta * m.of(cfg.annealing) for _, m in at],
        "tfr": [cfg.teacher_forcing.ratio_at(m.epoch, m.epochs) for _, m in at],
        "lr": [cfg.optimizer.lr * m.of(cfg.lr_schedule) for _, m in at],
    }
    return np.array([*(x for x, _ in at), ends[-1, 1]]), {name: np.array([*v, v[-1]]) for name, v in values.items()}


TRAINING_PANELS = (  # field, title, unit
    ("loss", "loss", "all its terms, L1 included"),
    ("mse", "reconstruction", "squared error, as in the loss"),
    ("kld", "KL divergence", "nats, reduced as in the loss"),
    ("beta", "KL weight", "beta"),
    ("tfr", "teacher forcing", "probability"),
    ("lr", "learning rate", "per step"),
)


@styled
def plot_training(runs: Any) -> Figure:
    """Loss, reconstruction, KL, beta, teacher forcing and learning rate against epochs done; one colour per run.

    The first three are means over an epoch (thin: over a few steps), as logged; the last three are what the run's
    schedules gave at each step. Loss and KL are summed by each run's own convention.
    """
    runs = as_runs(runs)
    if not any(run.metrics("epoch") for run in runs):
        return message(f"nothing to draw yet: no epoch is logged in {len(runs)} run(s)")
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True)
    for i, (run, name) in enumerate(zip(runs, labels(runs))):
        epochs, steps = run.metrics("epoch"), run.metrics("step")
        if not epochs:
            continue
        ends = epoch_ends(epochs)
        x_epoch, x_step = ends[1:, 1], epochs_done(steps, ends)
        x_scheduled, values = scheduled(run.config, ends)
        for ax, (field, *_) in zip(axes.flat, TRAINING_PANELS):
            if field in values:  # runs often share these: earlier ones are wider, so that they show behind later ones
                width = 1.6 + min(5, len(runs) - 1 - i)
                ax.step(x_scheduled, values[field], where="post", label=plain(name), linewidth=width, **line_look(i))
                continue
            if len(steps) > len(epochs):
                ax.plot(x_step, column(steps, field), linewidth=0.7, alpha=0.3, **line_look(i))
            draw(ax, x_epoch, column(epochs, field), label=plain(name), **line_look(i))
    for ax, (field, title, unit) in zip(axes.flat, TRAINING_PANELS):
        ax.set(title=title, ylabel=unit)
        if field == "tfr":
            ax.set_ylim(-0.03, 1.03)
        elif field != "beta":  # a share: zero matters more than ratios
            scale_y(ax)
    for ax in axes[1]:
        from_zero(ax, "epochs done")
    legend_below(figure, axes[0, 0])
    return figure


def draw_baselines(ax: Axes, records: Iterable[Mapping[str, Any]]) -> None:
    """A grey horizontal line for each baseline; runs on the same clips share theirs."""
    for key, (name, dash) in BASELINES.items():
        levels = np.unique(np.round(column(records, key), 2))
        for level in levels[np.isfinite(levels)]:
            ax.axhline(level, color=GREY, linestyle=dash, linewidth=1.2, label=f"{name}, {level:.1f} dB")


@styled
def plot_validation(runs: Any) -> Figure:
    """PSNR of free-running prediction on the validation clips against epochs and against minutes since the start, with
    the two baselines as grey lines; a ring marks the best evaluation of each run."""
    runs = as_runs(runs)
    if not any(run.metrics("eval") for run in runs):
        return message(f"nothing to draw yet: no evaluation is logged in {len(runs)} run(s)")
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for i, (run, name) in enumerate(zip(runs, labels(runs))):
        if not (records := run.metrics("eval")):
            continue
        psnr = column(records, "psnr")
        best = int(np.nanargmax(psnr)) if np.isfinite(psnr).any() else None
        for ax, x in zip(axes, (column(records, "epoch") + 1, column(records, "seconds") / 60)):
            ax.plot(x, psnr, marker="o", markersize=3.5, label=plain(name), **line_look(i))
            if best is not None:
                ax.plot(x[best], psnr[best], "o", markersize=9, fillstyle="none", color=line_look(i)["color"])
    for ax, xlabel in zip(axes, ("epochs done", "minutes since the start, evaluations included")):
        from_zero(ax, xlabel)
        draw_baselines(ax, [r for run in runs for r in run.metrics("eval")])
        ax.set_title(f"validation PSNR over {'epochs' if 'epoch' in xlabel else 'time'}")
    axes[0].set_ylabel("PSNR (dB)")
    legend_below(figure, axes[0])
    return figure


@styled
def plot_schedule(annealings: Mapping[str, Any], epochs: int, steps_per_epoch: int = 100) -> Figure:
    """The factor on beta over training, for annealing parts by name. A part that counts epochs is a staircase, one
    that counts optimizer steps a ramp, with `steps_per_epoch` of them in each epoch."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.subplots()
    for i, (name, part) in enumerate(annealings.items()):
        per = 1 if part.unit == "epoch" else steps_per_epoch
        beta = [part(t, epochs * per) for t in range(epochs * per)]
        ax.step(np.arange(len(beta) + 1) / per, [*beta, beta[-1]], where="post", label=plain(name), **line_look(i))
    ax.set(xlabel="epoch", ylabel="factor on beta", title="KL annealing", xlim=(0, epochs))
    legend_below(figure, ax)
    return figure


@styled
def plot_teacher_forcing(parts: Mapping[str, Any], epochs: int) -> Figure:
    """The probability that the model's next input is the ground truth, epoch by epoch, for parts by name."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.subplots()
    for i, (name, part) in enumerate(parts.items()):
        ratio = [part.ratio_at(epoch, epochs) for epoch in range(epochs)]
        ax.step(np.arange(epochs + 1), [*ratio, ratio[-1]], where="post", label=plain(name), **line_look(i))
    ax.set(xlabel="epoch", ylabel="probability", title="teacher forcing", xlim=(0, epochs), ylim=(-0.03, 1.03))
    legend_below(figure, ax)
    return figure


@styled
def plot_kld_vs_psnr(runs: Any) -> Figure:
    """The path of each run over its evaluations: that epoch's KL in training against validation PSNR; a dot ends it.

    The two ends of the KL axis are two failures: a KL near 0 is a posterior collapsed to the prior (z says nothing); a
    large one with a low PSNR is a decoder that reads the frame from a z it will not have at test time. Only runs whose
    KL is summed by the same convention can be compared.
    """
    figure = Figure(figsize=(6.5, 4.4), layout="constrained")
    ax = figure.subplots()
    runs = as_runs(runs)
    for i, (run, name) in enumerate(zip(runs, labels(runs))):
        kld = {r["epoch"]: r.get("kld", np.nan) for r in run.metrics("epoch")}
        points = np.array([(kld[r["epoch"]], r["psnr"]) for r in run.metrics("eval") if r["epoch"] in kld], float)
        if len(points):
            ax.plot(*points.T, label=plain(name), linewidth=1, **line_look(i))
            ax.plot(*points[-1], "o", color=line_look(i)["color"])
    if not ax.lines:
        return message(f"nothing to draw yet: no evaluation is logged in {len(runs)} run(s)")
    x = np.concatenate([line.get_xdata() for line in ax.lines])
    if (x > 0).all() and x.max() > 30 * x.min():
        ax.set_xscale("log")
    ax.set(
        xlabel="KL divergence in training (nats, as logged)",
        ylabel="validation PSNR (dB)",
        title="KL and PSNR over training",
    )
    legend_below(figure, ax)
    return figure
