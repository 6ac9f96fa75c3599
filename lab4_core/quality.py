"""Time to quality: how good the rollouts of each preset are after so many minutes of training on this machine."""

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
MEASURED = BENCHMARKS / "quality.json"  # the last measurement, which the report shows
LOOKS = 40  # evaluations of a run, evenly over its time; what they cost is in the time


def time_to_quality(
    minutes: float,
    data: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    presets: Sequence[str] = PRESETS,
    json_path: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train each preset for so many minutes of wall time, one after the other, and score its rollouts on the way.

    Everything else is as the preset has it; its schedules are stretched over the minutes. Returns, and with `json_path`
    writes, {"curves": {preset: [[minutes, dB], …]}, "repeat_first": dB, …} with machine and data named. A run that is
    there already, or was stopped on the way, is taken up. Raises `Lab4Error` for minutes that are none.
    """
    if not minutes > 0:
        raise Lab4Error(f"quality = {minutes}: expected more than 0 minutes for each preset")
    found: dict[str, Any] = {"minutes": minutes, "curves": {}}
    for preset in presets:
        length = {"name": f"quality-{preset}", "minutes": float(minutes), "epochs": LOOKS, "eval_every": 1}
        cfg = load_config("full", preset, data, {**length, **(overrides or {})})
        run = train(cfg, out=out)
        if not run.finished:
            raise Lab4Error(f"{run.dir}: stopped; the same command goes on from there")
        evaluations = run.metrics("eval")
        found["curves"][preset] = [[e["seconds"] / 60, e["psnr"]] for e in evaluations]
        found["repeat_first"] = evaluations[-1]["repeat_first"]
        found |= {k: run.result[k] for k in ("device", "data")}
        found.setdefault("steps", {})[preset] = run.result["steps"]
    found |= {"torch": torch.__version__, "cores": os.cpu_count()}
    if json_path:
        write_text(Path(json_path), json.dumps(found, indent=1) + "\n")
    return found


def minutes_to(curve: Sequence[Sequence[float]], psnr: float) -> float | None:
    """The minutes after which a curve [[minutes, dB], …] first is at `psnr`, or None where it never is."""
    return next((m for m, value in curve if value >= psnr), None)
