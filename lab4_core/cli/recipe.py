"""The options of every command that trains."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab4_core.cli import options
from lab4_core.cli.options import Folder, Number, Sets, Text, Whole
from lab4_core.presets import PRESETS, PROFILES


@dataclass(kw_only=True)
class Common:
    data: Folder = None
    """dataset in the LAB4 layout; default: $LAB4_DATA, else the synthetic dancer.
    For the svg model, in the BAIR layout; default: $BAIR_DATA, else the robot twin"""
    out: Folder = None
    """where the results go; default: $LAB4_RUNS, else runs/ in the checkout"""
    profile: options.one_of(PROFILES) = None
    """amount of work: smoke (a minute), demo (minutes), full (as the preset says).
    Default: demo, or full if the length of the training or a flag of the lab is given"""
    preset: options.one_of(PRESETS) = None
    """recipe (the model and how it is trained): compact is for two CPU cores, lab is the lab's own.
    Default: compact, or lab if a flag of the lab is given; for --model svg (robot pushing) svg-compact or svg-lab"""
    model: Text = None
    """name of the network, instead of the preset's"""
    minutes: Number = None
    """train for this many minutes of wall time; the schedules are stretched over them"""
    seed: Whole = None
    """seed of weights, data order, noise and teacher-forcing draws (0)"""
    sets: Sets = ()
    """any field of a run or its parts, as in annealing=monotonic or annealing.cycles=4; repeatable.
    A value may be JSON. For lab4 sweep, commas separate the values to try"""

    def own(self) -> dict[str, Any]:
        """The overrides that have an option of their own."""
        return {k: getattr(self, k) for k in ("model", "seed", "minutes") if getattr(self, k) is not None}

    def recipe(self, overrides: Mapping[str, Any], lab: bool = False) -> dict[str, str]:
        """Preset and profile. A training length that is given must not yield to a profile's number of steps."""
        length_given = any(overrides.get(k) is not None for k in ("epochs", "steps", "minutes"))
        robot = "svg-" if overrides.get("model") == "svg" else ""
        return {
            "preset": self.preset or robot + ("lab" if lab else "compact"),
            "profile": self.profile or ("full" if lab or length_given else "demo"),
        }


def note(*lines: str) -> None:
    for line in lines:
        print(f"lab4: note: {line}", file=sys.stderr)
