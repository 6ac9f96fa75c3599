"""How every figure looks, how it is shown, and how runs are told apart in it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lab4_core.media import figure_html

# Okabe and Ito's colours, distinct for every kind of colour vision; their yellow is too pale for a line on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")  # after seven lines the colours repeat with the next dash
GREY = "#767676"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "white",
}
styled = mpl.rc_context(STYLE)  # a decorator: the style applies inside the plot functions and nowhere else
BASELINES = {"repeat_first": ("repeat the first frame", "--"), "copy_previous": ("copy the true previous frame", ":")}


@dataclass(frozen=True)
class Picture:
    """A figure with alt text and caption that displays itself in a notebook and in its exports by nbconvert."""

    figure: Figure
    alt: str
    caption: str = ""

    def png(self, dpi: int = 110) -> bytes:
        out, small = io.BytesIO(), io.BytesIO()
        self.figure.savefig(out, format="png", dpi=dpi)
        drawn = Image.open(out).convert("RGB")
        if not any(ax.images for ax in self.figure.axes):  # 256 colours are enough for lines on white
            drawn = drawn.quantize(256)
        drawn.save(small, "PNG", optimize=True)
        return small.getvalue()

    def __repr__(self) -> str:  # constant, so that a notebook's stored output can be compared
        return "Picture"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        png = self.png()
        page = figure_html(png, "image/png", self.alt, self.caption)
        return {"text/html": page, "image/png": png, "text/plain": repr(self)}


def show(figure: Figure, *, alt: str, caption: str = "") -> Picture:
    """The figure as the last value of a cell: `show(plot_training(runs), alt="…", caption="…")`."""
    return Picture(figure, alt, caption)


def as_runs(runs: Any) -> list[Any]:
    """One run or several, as a list."""
    return [runs] if hasattr(runs, "metrics") else list(runs)


def labels(runs: Sequence[Any]) -> list[str]:
    """A name for each run: its own, with annealing, seed and fingerprint added as needed to tell them apart."""
    names = [run.name for run in runs]
    parts: list[Callable[[Any], str]] = [
        lambda run: run.config.annealing.kind,
        lambda run: f"seed {run.config.seed}",
        lambda run: run.dir.name[-6:],
    ]
    for part in parts:
        if len(set(names)) == len(names):
            break
        extra = [part(run) for run in runs]
        if len(set(extra)) > 1:
            names = [f"{name}, {more}" for name, more in zip(names, extra)]
    return names


def plain(name: object) -> str:
    """A name escaped for matplotlib: a dollar sign in a folder's name must not begin a formula."""
    return str(name).replace("$", r"\$")


def line_look(i: int) -> dict[str, Any]:
    """Colour and dash of line `i` of a figure."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}


def message(text: str) -> Figure:
    """A figure with nothing but a text, for when there is nothing to draw."""
    figure = Figure(figsize=(7, 1.6))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def legend_below(figure: Figure, ax: Axes) -> None:
    """One legend for all panels, below them, where it covers nothing, in as many columns as there is room for."""
    handles, names = ax.get_legend_handles_labels()
    room = int(figure.get_figwidth() * 11 // (max(map(len, names), default=0) + 8))  # about 11 letters per inch
    figure.legend(handles, names, loc="outside lower center", ncols=max(1, min(room, len(names))))
