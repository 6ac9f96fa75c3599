"""Comparisons: the points of a sweep seed by seed, and effects with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lab4_core.plots.style import COLOURS, GREY, message, styled

LOOKS = {"holds": (COLOURS[2], "o"), "does not hold": (COLOURS[1], "s"), "undecided": (COLOURS[0], "D")}


@styled
def plot_effects(judged: Sequence[Mapping[str, Any]], margin: float = 0.2, reach: float = 2.5) -> Figure:
    """Effects of `claims.judge` with their 95 % intervals, one line each; grey band: differences that count as none.

    Comparisons that were not measured have no interval and are left out. The axis ends at `reach` dB, so that one large
    effect does not make the others and the band invisible: an effect beyond it is an arrow with its value, an interval
    that reaches beyond it is cut off there.
    """
    rows = [row for row in judged if row["low"] is not None]
    if not rows:
        return message("no claim has been measured yet")
    figure = Figure(figsize=(9.5, 1.7 + 0.3 * len(rows)), layout="constrained")
    ax = figure.subplots()
    ax.axvspan(-margin, margin, color="#e8e8e8", zorder=0, label=f"within {margin:g} dB: no difference")
    ax.axvline(0, color=GREY, linewidth=1)
    said = set()
    for y, row in enumerate(rows):
        colour, marker = LOOKS[row["verdict"]]
        look = {"color": colour, "markersize": 4.5}
        if row["verdict"] not in said:  # a key to the verdicts, whatever the first effect of its kind looks like
            ax.plot([], [], marker, label=f"claim: {row['verdict']}", **look)
            said.add(row["verdict"])
        if abs(effect := row["effect"]) > reach:
            edge, inwards = np.copysign(0.97 * reach, effect), -np.copysign(8, effect)
            ax.plot(edge, y, "<" if effect < 0 else ">", **look)
            ax.annotate(f"{effect:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})", (edge, y), (inwards, 0), fontsize=8,
                        textcoords="offset points", ha="left" if effect < 0 else "right", va="center")  # fmt: skip
            continue
        ax.errorbar(effect, y, xerr=[[effect - row["low"]], [row["high"] - effect]], fmt=marker, capsize=3,
                    linewidth=1.6, **look)  # fmt: skip
    names = [f"{r['name']}: {r['compared']}{', ' * bool(r['where'])}{r['where']} ({r['pairs']} pairs)" for r in rows]
    ax.set(xlabel="effect on the PSNR of the rollout (dB)", xlim=(-reach, reach))
    ax.set_yticks(range(len(rows)), names, fontsize=8)
    ax.tick_params(top=True, labeltop=True)  # the picture is longer than a screen
    figure.suptitle("Mean difference within pairs of one seed, 95 % interval")  # long names leave the axes narrow
    ax.set_ylim(len(rows) - 0.5, -0.5)  # the first one on top
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _setting(value: Any) -> str:
    """A cell of a sweep's table as an axis label; 0 and False are settings too."""
    return "–" if value in (None, "") else str(value)


@styled
def plot_sweep(rows: Sequence[Mapping[str, Any]], by: Sequence[str], value: str = "psnr") -> Figure:
    """The finished points of a sweep's table: a row for each setting of the columns `by`, a dot for each run, a bar at
    their mean. Runs with the same seed share a colour, so that a seed that is good everywhere stands out.

    rows: as `run_sweep` returns them or as its CSV holds them.
    """
    finished = [r for r in rows if r.get("status") == "finished" and r.get(value) not in (None, "")]
    if not finished:
        return message("no point of this sweep has finished yet")
    settings = list(dict.fromkeys(tuple(_setting(r.get(k)) for k in by) for r in finished))
    seeds = sorted({str(r.get("seed", "")) for r in finished})
    figure = Figure(figsize=(9.5, 1.5 + 0.36 * len(settings)), layout="constrained")
    ax = figure.subplots()
    for y, setting in enumerate(settings):
        own = [r for r in finished if tuple(_setting(r.get(k)) for k in by) == setting]
        mean = np.mean([float(r[value]) for r in own])
        ax.plot([mean, mean], [y - 0.3, y + 0.3], color="black", linewidth=2, label="mean" if y == 0 else None)
        for r in own:
            i = seeds.index(str(r.get("seed", "")))
            shift = 0.24 * (i / max(1, len(seeds) - 1) - 0.5)
            ax.plot(float(r[value]), y + shift, "o", color=COLOURS[i % len(COLOURS)], markersize=6, alpha=0.85)
    for i, seed in enumerate(seeds):
        ax.plot([], [], "o", color=COLOURS[i % len(COLOURS)], label=f"seed {seed}" if seed else "a run")
    ax.set(yticks=range(len(settings)), yticklabels=[", ".join(s) for s in settings],
           xlabel="PSNR of the rollout (dB)" if value == "psnr" else value, ylabel=", ".join(by),
           title="Every run of the sweep")  # fmt: skip
    ax.set_ylim(len(settings) - 0.5, -0.5)  # the first one on top
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=6)
    return figure


@styled
def plot_quality(*found: Mapping[str, Any]) -> Figure:
    """PSNR against minutes of training as `quality.time_to_quality` measured it: one panel per set of clips, one curve
    per preset. The presets may differ between panels."""
    presets = list(dict.fromkeys(preset for measured in found for preset in measured["curves"]))
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False, sharex=True, sharey=True)[0]
    for ax, measured in zip(panels, found):
        for preset, curve in measured["curves"].items():
            minutes, psnr = np.array(curve).T
            ax.plot(minutes, psnr, color=COLOURS[presets.index(preset)], marker="o", markersize=3, label=preset)
        ax.axhline(measured["repeat_first"], color=GREY, linestyle="--", label="repeat the first frame")
        ax.set(xscale="log", xlabel="minutes of training",
               title=f"{measured['data']['name']}, {measured['split']}\n{measured['device']}")  # fmt: skip
        ax.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter=NullFormatter())
    panels[0].set_ylabel("PSNR of the rollout (dB)")
    drawn = {line.get_label(): line for ax in panels for line in ax.lines}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=5)
    return figure
