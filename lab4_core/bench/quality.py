"""Time to quality: how good the rollouts of each preset are after given minutes of training on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lab4_core.engine import train
from lab4_core.errors import Lab4Error
from lab4_core.paths import BENCHMARKS, write_text
from lab4_core.presets import load_config

PRESETS = ("lab", "compact", "best")
MEASURED = BENCHMARKS / "quality"  # the last measurements, one file per set of clips, which the report shows
TARGET = 30.0  # dB
LOOKS = {"lab": 2}  # evaluations per run, evenly over its epochs: one costs `lab` as much as a dozen steps
# An epoch of the lab takes minutes and its schedules span 70: when the others are done it is still in its first, with
# every schedule at its beginning. Stretched over the minutes, they would end its learning after a few steps.
BEGINNING = {"lab": {"lr_schedule": "constant", "annealing": {"kind": "none", "stop": 0.0},
                     "teacher_forcing": {"kind": "constant", "ratio": 1.0}}}  # fmt: skip
MANY_LOOKS = 20  # on a slow machine, more would leave little time for training
# Weights that came with the package were not learnt in these minutes; six rollouts per evaluation would fill them.
WITHOUT = ("warm_start", "averaged_views")


def time_to_quality(
    minutes: float,
    data: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    presets: Sequence[str] = PRESETS,
    json_path: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    lab_times: float = 0.0,
) -> dict[str, Any]:
    """Train each preset for so many minutes of wall time, one after the other, and score its rollouts along the way.

    lab_times: `lab`, which comes last, gets this many times the minutes that `best` took to reach 30 dB, if that is
    longer, so that a short measurement shows how much sooner one gets there than the other. All start from random
    weights and are scored on single rollouts (`WITHOUT`). Otherwise the presets are unchanged; their schedules are
    stretched over the minutes, but those of `lab` stay where its first epoch has them. Returns, and with `json_path`
    writes, {"curves": {preset: [[minutes, dB], …]}, "repeat_first": dB, …} with machine and data named; the minutes of
    the curves are those of training, without earlier evaluations. A run that exists already, finished or stopped, is
    reused. Raises `Lab4Error` for minutes that are not above 0 and for lab_times below 0, and `KeyboardInterrupt` if a
    training was stopped.
    """
    if not minutes > 0:
        raise Lab4Error(f"quality = {minutes}: expected more than 0 minutes for each preset")
    if not lab_times >= 0:
        raise Lab4Error(f"lab_times = {lab_times}: expected 0 or more")
    curves: dict[str, list[list[float]]] = {}
    found: dict[str, Any] = {"curves": {}, "steps": {}}
    for preset in reversed(presets):
        length = float(minutes)
        if preset == "lab":
            length = max(length, lab_times * (minutes_to(curves.get("best", []), TARGET) or 0.0))
        # the epochs stay the preset's: its schedules are counted in them
        whole = load_config("full", preset, data, overrides)
        strategies = [s for s in whole.to_dict()["strategies"] if s["kind"] not in WITHOUT]
        often = {"minutes": length, "eval_every": max(1, whole.epochs // LOOKS.get(preset, MANY_LOOKS)),
                 "strategies": strategies}  # fmt: skip
        cfg = load_config("full", preset, data, {"name": f"quality-{preset}", **often, **BEGINNING.get(preset, {}),
                                                 **(overrides or {})})  # fmt: skip
        run = train(cfg, out=out)
        if not run.finished:
            raise KeyboardInterrupt(f"{run.dir}: stopped; the same call continues from there")
        curves[preset] = curve_of(run.metrics("eval"))
        found["steps"][preset] = run.result["steps"]
        found["repeat_first"] = run.metrics("eval")[-1]["repeat_first"]
        found |= {k: run.result[k] for k in ("device", "data")} | {"split": run.result["protocol"]["split"]}
    found |= {"curves": {preset: curves[preset] for preset in presets}, "torch": torch.__version__,
              "cores": os.cpu_count()}  # fmt: skip
    if json_path:
        write_text(Path(json_path), json.dumps(found, indent=1) + "\n")
    return found


def curve_of(evaluations: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """[[minutes of training, dB], …] of a run's evaluations: its time without that of earlier evaluations."""
    curve, evaluating = [], 0.0
    for e in evaluations:
        curve.append([(e["seconds"] - evaluating) / 60, e["psnr"]])
        evaluating += e["eval_seconds"]
    return curve


def minutes_to(curve: Sequence[Sequence[float]], psnr: float) -> float | None:
    """The minutes from which a curve [[minutes, dB], …] stays at `psnr` or above, or None if it ends below. A model
    that copies at first may be above it for a while and then below, when it begins to draw."""
    reached = None
    for minutes, value in curve:
        reached = None if value < psnr else minutes if reached is None else reached
    return reached


def at_equal_minutes(found: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    """The longest training time that every preset had, in minutes, and each one's dB at its last evaluation up to then,
    best first."""
    minutes = min(curve[-1][0] for curve in found["curves"].values())
    psnr = {k: [v for m, v in curve if m <= minutes][-1:] for k, curve in found["curves"].items()}
    return minutes, dict(sorted(((k, v[0]) for k, v in psnr.items() if v), key=lambda kv: -kv[1]))


def in_words(found: Mapping[str, Any]) -> list[str]:
    """The result of `time_to_quality`, a line per preset: where its curve ends and when it reached 30 dB."""
    lines = []
    for preset, curve in found["curves"].items():
        first = minutes_to(curve, TARGET)
        lost = "lost again" if max(psnr for _, psnr in curve) >= TARGET else "never reached"
        at = f"{TARGET:g} dB " + (f"after {first:.1f} min" if first is not None else lost)
        done = f"{curve[-1][0]:.1f} min and {found['steps'][preset]:,} steps"
        lines.append(f"{preset:10s} {curve[-1][1]:.2f} dB after {done}, {at}")
    minutes, ranked = at_equal_minutes(found)
    lines.append(f"after {minutes:.1f} min each: " + " > ".join(f"{k} {v:.2f} dB" for k, v in ranked.items()))
    return lines
