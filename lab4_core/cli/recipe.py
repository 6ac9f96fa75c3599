"""The options that every command has which trains."""

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
    """dataset in the LAB4 layout; else $LAB4_DATA, else the synthetic dancer. For the svg model in the BAIR layout;
    else $BAIR_DATA, else the robot twin"""
    out: Folder = None
    """where the results go; else $LAB4_RUNS, else runs/ of the checkout"""
    profile: options.one_of(PROFILES) = None
    """amount of work: smoke (a minute), demo (minutes), full (as the preset says); demo unless the length of the
    training is given"""
    preset: options.one_of(PRESETS) = None
    """recipe, the model and how it is trained: compact is for two CPU cores, lab is the lab's own; compact unless a
    flag of the lab is given. svg-compact and svg-lab are the same for robot pushing, and what --model svg means"""
    model: Text = None
    """name of the network, instead of the preset's"""
    minutes: Number = None
    """train for this many minutes of wall time, the schedules stretched over them"""
    seed: Whole = None
    """seed of weights, data order, noise and teacher-forcing draws (0)"""
    sets: Sets = ()
    """any field of a run or of its parts, as annealing=monotonic or annealing.cycles=4; may be repeated.
    For lab4 sweep, commas separate the values to try. A value may be JSON"""

    def own(self) -> dict[str, Any]:
        """The overrides that have an option of their own."""
        return {k: getattr(self, k) for k in ("model", "seed", "minutes") if getattr(self, k) is not None}

    def recipe(self, overrides: Mapping[str, Any], lab: bool = False) -> dict[str, str]:
        """Preset and profile. Whoever says how long to train means that, not a profile's number of steps."""
        length_given = any(overrides.get(k) is not None for k in ("epochs", "steps", "minutes"))
        robot = "svg-" if overrides.get("model") == "svg" else ""
        return {
            "preset": self.preset or robot + ("lab" if lab else "compact"),
            "profile": self.profile or ("full" if lab or length_given else "demo"),
        }


def note(*lines: str) -> None:
    for line in lines:
        print(f"lab4: note: {line}", file=sys.stderr)
