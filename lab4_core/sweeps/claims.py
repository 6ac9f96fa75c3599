"""Claims of the reports as experiments: a sweep with paired seeds, and what its table says about the claim.

A claim is a YAML file (this project's are in notebooks/sweeps/) that `lab4 sweep --file` runs unchanged:

    claim: Teacher forcing makes the rollouts worse
    source: report_000
    expects: worse              # compared with the base: worse, better, or same
    margin: 0.2                 # dB; a smaller difference counts as none
    base: free running          # the level that the others are compared with
    levels:                     # label -> overrides of its runs
      free running: {teacher_forcing.ratio: 0.0}
      teacher forcing: {teacher_forcing.ratio: 1.0}
    where: {annealing: [none, cyclical]}     # optional: contexts in which the comparison is repeated
    common: {preset: compact, steps: 200}
    datasets: {lab4: {hold_out: 0}}          # optional: overrides of all runs on one dataset
    seeds: [0, 1, 2, 3, 4]

Its measurements are kept beside it, as results/dancer/NAME.csv and results/lab4/NAME.csv.

A seed decides weights (where shapes agree), data order and noise, so two levels with the same seed are a pair: the
effect is the mean over seeds of the difference within a pair, in which what the two have in common cancels.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lab4_core.errors import Lab4Error, unknown
from lab4_core.paths import NOTEBOOKS
from lab4_core.plots import band
from lab4_core.registry import coerce, hints
from lab4_core.sweeps.sweep import Point, expand, read_file, read_yaml
from lab4_core.sweeps.table import cell_text

FOLDER = NOTEBOOKS / "sweeps"
DATASETS = {"dancer": "synthetic dancer", "lab4": "real frames"}  # folder under results/ -> what to call it


@dataclass(frozen=True, kw_only=True)
class Claim:
    """See the module. Raises `Lab4Error` for levels, seeds or a margin that make no comparison."""

    claim: str
    source: str
    expects: Literal["same", "better", "worse"]
    base: str
    seeds: tuple[int, ...]
    margin: float = 0.2
    name: str = ""
    levels: Mapping[str, Point] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)
    common: Mapping[str, Any] = field(default_factory=dict)
    datasets: Mapping[str, Point] = field(default_factory=dict)

    def __post_init__(self):
        where = f"claim {self.name}"
        for data, more in self.datasets.items():
            if data not in DATASETS:
                raise unknown(f"dataset of the {where}:", data, DATASETS)
            if not isinstance(more, Mapping):
                raise Lab4Error(f"{where}: datasets: {data}: {more!r}: expected a mapping of overrides")
        for label, level in self.levels.items():
            if not isinstance(label, str) or not isinstance(level, Mapping):
                raise Lab4Error(f"{where}: level {label!r}: {level!r}: expected a word and a mapping of overrides")
        if self.base not in self.levels or len(self.levels) < 2:
            raise Lab4Error(f"{where}: base = {self.base!r}: expected one of two levels or more, {list(self.levels)}")
        if len(set(self.seeds)) < 2:
            raise Lab4Error(f"{where}: seeds = {list(self.seeds)}: expected 2 or more, or there is no interval")
        if not self.margin > 0:
            raise Lab4Error(f"{where}: margin = {self.margin}: expected more than 0 dB")

    def on(self, data: str) -> Claim:
        """The claim as it is measured on a dataset, a key of `DATASETS`."""
        return replace(self, common={**self.common, **self.datasets.get(data, {})}, datasets={})

    @property
    def contexts(self) -> list[Point]:
        return expand(self.where)

    def point(self, context: Point, level: str, seed: int) -> Point:
        return {**self.common, **context, **self.levels[level], "seed": seed}

    def points(self) -> list[Point]:
        """What the sweep runs, seed by seed, so that it leaves whole pairs if stopped midway."""
        return [
            self.point(context, level, seed)
            for seed, context, level in itertools.product(self.seeds, self.contexts, self.levels)
        ]


def read_claim(path: str | os.PathLike) -> Claim:
    """The claim in a YAML file. Raises `Lab4Error` for a file that is not one."""
    path = Path(path)
    values = read_yaml(path)
    types_of = hints(Claim)
    tables = ("levels", "where", "common", "datasets")
    if not isinstance(values, Mapping):
        raise Lab4Error(f"claim {path}: holds {values!r}: expected a mapping")
    for key in values:
        if key not in types_of:
            raise unknown(f"field of the claim {path}:", key, types_of)
        if key in tables and not isinstance(values[key], Mapping):
            raise Lab4Error(f"claim {path}: {key} = {values[key]!r}: expected a mapping")
    missing = [k for k in ("claim", "source", "expects", "base", "levels", "seeds") if k not in values]
    if missing:
        raise Lab4Error(f"claim {path}: no {', '.join(missing)} in it")
    plain = {k: coerce(v, types_of[k], f"claim {path.stem}: {k}") for k, v in values.items() if k not in tables}
    return Claim(**plain, **{k: values[k] for k in tables if k in values}, name=path.stem)


def points_of(path: str | os.PathLike) -> list[Point]:
    """The points of a sweep file, which may be a grid, a list of points, or a claim."""
    values = read_yaml(path)
    return read_claim(path).points() if isinstance(values, Mapping) and "levels" in values else read_file(path)


# --------------------------------------------------------------------------------------------- verdicts


def verdict(expects: str, low: float, high: float, margin: float) -> str:
    """What a 95 % interval of an effect (dB) says about a claim.

    same: holds if the interval lies within -+ margin (two one-sided tests), does not if it lies wholly outside.
    better: holds if it lies above 0 and reaches the margin, does not if it ends below the margin.
    worse: mirrored. Everything else is undecided: more seeds would tell.
    """
    if expects == "worse":
        low, high = -high, -low
    if expects == "same":
        holds, fails = -margin < low and high < margin, low > margin or high < -margin
    else:
        holds, fails = low > 0 and high >= margin, high < margin
    return "holds" if holds else "does not hold" if fails else "undecided"


def judge(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each level but the base, in each context: pairs, effect in dB with its 95 % interval, verdict.

    rows: the table of a sweep, from `run_sweep` or read from its CSV; rows of other points are ignored. With fewer
    than two finished pairs there is no interval, and the verdict is "not measured".
    """

    def psnr(context: Point, level: str, seed: int) -> float | None:
        row = finished_row(rows, claim.point(context, level, seed))
        return float(row["psnr"]) if row else None

    found = []
    for context in claim.contexts:
        shown = {k: v for k, v in context.items() if len({cell_text(c[k]) for c in claim.contexts}) > 1}
        for level in (k for k in claim.levels if k != claim.base):
            pairs = [(psnr(context, claim.base, seed), psnr(context, level, seed)) for seed in claim.seeds]
            effects = [b - a for a, b in pairs if a is not None and b is not None]
            row = {
                "claim": claim.claim, "name": claim.name, "source": claim.source,
                "compared": f"{level} against {claim.base}",
                "where": ", ".join(f"{k} = {cell_text(v)}" for k, v in shown.items()), "pairs": len(effects),
                "effect": float(np.mean(effects)) if effects else None, "low": None, "high": None,
                "verdict": "not measured",
            }  # fmt: skip
            if len(effects) >= 2:
                _, low, high = (float(v[0]) for v in band(np.array(effects)[:, None]))
                row |= {"low": low, "high": high, "verdict": verdict(claim.expects, low, high, claim.margin)}
            found.append(row)
    return found


def overall(judged: Sequence[Mapping[str, Any]]) -> str:
    """One verdict for all comparisons of a claim: the one they agree on, "depends" if one holds and another does not,
    and otherwise "not measured" or "undecided" as long as one of them is."""
    words = {row["verdict"] for row in judged}
    if {"holds", "does not hold"} <= words:
        return "depends"
    for word in ("not measured", "undecided"):
        if word in words:
            return word
    return words.pop()


def labelled(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The finished rows of a claim, level by level, with the level's name in a column of its own."""
    return [
        {**row, "level": level}
        for level, context, seed in itertools.product(claim.levels, claim.contexts, claim.seeds)
        if (row := finished_row(rows, claim.point(context, level, seed)))
    ]


def sentence(row: Mapping[str, Any]) -> str:
    """A row of `judge` in words."""
    where = f" ({row['where']})" if row["where"] else ""
    if row["low"] is None:
        return f"{row['compared']}{where}: not measured, {row['pairs']} pairs of runs"
    return (
        f"{row['compared']}{where}: {row['effect']:+.2f} dB, 95 % interval {row['low']:+.2f} to {row['high']:+.2f} "
        f"over {row['pairs']} seeds: {row['verdict']}"
    )


def finished_row(rows: Sequence[Mapping[str, Any]], point: Point) -> Mapping[str, Any] | None:
    """The row of a point, if it finished. Columns of the table that the point does not name must be empty."""
    for row in rows:
        keys = list(row)
        axes = {*keys[keys.index("point") + 1 : keys.index("status")], *point}
        if row["status"] == "finished" and all(cell_text(row.get(k)) == cell_text(point.get(k)) for k in axes):
            return row
    return None


# -------------------------------------------------------------------------------------------------- all


def all_claims(folder: Path = FOLDER) -> list[Claim]:
    """The claims of a folder, by file name."""
    return [read_claim(path) for path in sorted(folder.glob("*.yaml"))]


def points_of_all(claims: Sequence[Claim]) -> list[Point]:
    """The points that all claims need, each one once (claims share their bases), seed by seed."""
    return sorted(expand([{k: [v] for k, v in p.items()} for c in claims for p in c.points()]), key=lambda p: p["seed"])
