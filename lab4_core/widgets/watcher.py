"""A training run followed while it trains, from nothing but the files in its directory."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as w
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab4_core.errors import Lab4Error
from lab4_core.plots.style import BASELINES, COLOURS, GREY, message
from lab4_core.plots.training import column, draw, scale_y
from lab4_core.runlog import Run
from lab4_core.widgets.live import Live, png, someone_watches, stacked, words

EVERY = 2.0  # seconds between two looks at the files; the picture is only redrawn when they have changed
QUIET = 120.0  # seconds without a new line after which an unfinished run is reported as silent


def status(folder: str | os.PathLike, now: float | None = None) -> str:
    """One line on the run in a directory: its progress, last losses and last score. now: seconds since 1970.

    For a directory that does not exist yet, or whose files are half-written, the line says that it waits.
    """
    try:
        run = Run(folder)
        result, steps, epochs, evals = run.result, *(run.metrics(kind) for kind in ("step", "epoch", "eval"))
    except Lab4Error:
        return f"waiting for {Path(folder).name}: no run there yet"
    last = max([*steps, *epochs], key=lambda r: r.get("step", 0), default={})
    parts = [f"{run.name}: {result.get('status') or ('training' if last else 'started')}"]
    if last:
        total = f" of {run.config.steps}" if run.config.steps else ""
        parts.append(f"step {last.get('step')}{total}, epoch {len(epochs)} of {run.config.epochs}")
        parts += [f"{name} {last[name]:.4g}" for name in ("loss", "kld") if isinstance(last.get(name), (int, float))]
    if evals and isinstance(evals[-1].get("psnr"), (int, float)):
        parts.append(f"val {evals[-1]['psnr']:.2f} dB")
    if result.get("reason"):
        parts.append(str(result["reason"]))
    if not result and (age := silent(run.dir, now)) > QUIET:
        parts.append(f"no news for {age / 60:.0f} min")
    return ", ".join(parts)


def silent(folder: Path, now: float | None = None) -> float:
    """Seconds since the log of a run last grew; 0 if there is none."""
    try:
        return max(0.0, (time.time() if now is None else now) - (folder / "metrics.jsonl").stat().st_mtime)
    except OSError:
        return 0.0


def picture(folder: str | os.PathLike) -> bytes:
    """Loss and its terms, beta and validation PSNR of the run in a directory, by optimizer step, as a PNG."""
    try:
        run = Run(folder)
        return png(curves(run))
    except Lab4Error:
        return png(message(f"waiting for {Path(folder).name}"))


def curves(run: Run) -> Figure:
    """What `picture` draws, from steps or epochs, whichever has more records: a first epoch has only steps."""
    steps, epochs, evals = (run.metrics(kind) for kind in ("step", "epoch", "eval"))
    records = steps if len(steps) > len(epochs) else epochs
    if not records:
        return message("nothing to draw yet: the first steps are on their way")
    at = column(records, "step")
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for ax in (left, middle, right):  # by hand: matplotlib's settings are global, and this runs in a thread
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#e4e4e4")
        ax.set_axisbelow(True)
    for i, (name, label) in enumerate({"loss": "loss", "mse": "reconstruction"}.items()):
        draw(left, at, column(records, name), color=COLOURS[i], linestyle=("-", "--")[i], label=label)
    draw(middle, at, column(records, "kld"), color=COLOURS[0], label="KL (nats)")
    price = middle.twinx()
    draw(price, at, column(records, "beta"), color=GREY, linestyle=":")
    price.spines["top"].set_visible(False)
    price.ticklabel_format(axis="y", scilimits=(-3, 3))
    middle.plot([], [], color=GREY, linestyle=":", label="β (right axis)")
    score(right, evals)
    last = max([at[-1], *column(evals, "step")])
    for ax in (left, middle, right):
        ax.set(xlabel="step", xlim=(0, 1.04 * last))
    for ax in (left, middle):
        scale_y(ax)
    for ax in (left, middle, right):
        if ax.get_legend_handles_labels()[1]:  # under the axes, where it covers no curve
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), fontsize=8, frameon=False)
    left.set_title("loss", fontsize=11)
    middle.set_title("KL and its weight", fontsize=11)
    return figure


def score(ax: Axes, evals: list[dict[str, Any]]) -> None:
    """Validation PSNR and the levels of the two baselines."""
    ax.set_title("validation PSNR (dB)", fontsize=11)
    draw(ax, column(evals, "step"), column(evals, "psnr"), color=COLOURS[0], linestyle="-")
    for key, (name, dash) in BASELINES.items():
        levels = column(evals, key)
        if np.isfinite(levels).any():
            ax.axhline(levels[np.isfinite(levels)][-1], color=GREY, linestyle=dash, linewidth=1.2, label=name)
    if not evals:
        ax.text(0.5, 0.5, "no evaluation yet", color=GREY, ha="center", va="center", transform=ax.transAxes)


class Watcher(Live):
    """The curves of a run that may still be training, redrawn as its log grows; see `watch`."""

    _following: ClassVar[dict[Path, Watcher]] = {}  # a cell that is run again replaces the watcher it made before

    def __init__(self, folder: str | os.PathLike, every: float = EVERY):
        if not every > 0:
            raise Lab4Error(f"every = {every}: expected a number of seconds above 0")
        self.folder, self.every = Path(folder).expanduser().resolve(), every
        self.alt = "curves of a training run by step: loss and reconstruction, KL and beta, validation PSNR"
        self._over, self._thread = threading.Event(), None

    @property
    def caption(self) -> str:
        return f"{status(self.folder)}. In JupyterLab the curves grow while the run trains."

    def still(self) -> bytes:
        return picture(self.folder)

    # ---------------------------------------------------------------------------------------------------- following

    def build(self) -> w.Widget:
        self._line = w.HTML(self._words())
        self._image = w.Image(value=picture(self.folder), format="png")
        button = w.Button(description="stop watching", tooltip="the training continues")
        button.on_click(lambda _: self.stop(wait=False))
        self.follow()
        return stacked(self._line, self._image, button)

    def _words(self) -> str:
        return words(self.alt, status(self.folder))

    def follow(self) -> None:
        """Start to poll the files in a thread; it ends with the run, on `stop`, or when another watcher takes its
        place."""
        before = self._following.pop(self.folder, None)
        if before is not None and before is not self:
            before.stop()
        self._following[self.folder] = self
        self._over.clear()
        self._thread = threading.Thread(target=self._follow, name=f"watch {self.folder.name}", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        seen = None
        while not self._over.is_set():
            finished, now = self._finished(), self._stamp()
            try:
                self._line.value = self._words()
                if now != seen:
                    seen, self._image.value = now, picture(self.folder)
            except Exception as e:  # what cannot be drawn now may be in a moment
                with suppress(Exception):
                    self._line.value = words(self.alt, f"{self.folder.name}: {type(e).__name__}: {e}")
            if finished:
                return
            self._over.wait(self.every)

    def _stamp(self) -> list[tuple[int, int]]:
        """What changes when there is something new to draw."""
        stamps = []
        for name in ("metrics.jsonl", "result.json"):
            with suppress(OSError):
                about = (self.folder / name).stat()
                stamps.append((about.st_size, about.st_mtime_ns))
        return stamps

    def _finished(self) -> bool:
        try:
            return Run(self.folder).finished
        except Lab4Error:
            return False

    @property
    def following(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def stop(self, wait: bool = True) -> None:
        """End the thread; the picture stays as it is."""
        self._over.set()
        if wait and self.following and self._thread is not threading.current_thread():
            self._thread.join()

    # ------------------------------------------------------------------------------------- around a training: `with`

    def __enter__(self) -> Watcher:
        if someone_watches():
            self._shown = display(self, display_id=True)
        return self

    def __exit__(self, *exc: object) -> None:
        if someone_watches():
            self.stop()
            self._line.value, self._image.value = self._words(), picture(self.folder)
            self._shown.update(self)  # with the twin of the finished run, so that an exported notebook has it
        else:
            display(self)


def watch(folder: str | os.PathLike | Run, every: float = EVERY) -> Watcher:
    """The curves of a run, live: as the value of a cell they follow a run that trains elsewhere (`lab4 train` in a
    terminal, a sweep, another notebook); around a training in the same cell they follow that one:

        with widgets.watch(folder):
            run = l4.train(cfg)

    folder: the run's, or the `Run`; it need not exist yet. every: seconds between two looks at it. Where nobody watches
    (papermill, an export) it is the figure of the run as it is then.
    """
    return Watcher(folder.dir if isinstance(folder, Run) else folder, every)
