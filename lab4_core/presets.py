"""Presets (recipes) and profiles (amounts of work): dicts of overrides of `Config`, nothing else."""

from __future__ import annotations

import os
from typing import Any

from lab4_core.config import Config, layer
from lab4_core.errors import unknown

PRESETS: dict[str, dict[str, Any]] = {
    # The lab as it is handed out: every default of Config.
    "lab": {},
    # For two CPU cores: a U-Net CVAE at a fraction of the FLOPs, short random windows, EMA weights.
    "compact": {
        "model": "compact",
        "batch_size": 10,
        "n_frames": 3,
        "windows": "random",
        "epochs": 20,
        "optimizer": {"kind": "adamw", "lr": 2e-3},
        "lr_schedule": {"kind": "cosine", "warmup": 0.02},
        "beta": 1e-4,
        "loss.l1": 0.25,
        "annealing.cycles": 4,
        "teacher_forcing": {"kind": "constant", "ratio": 0.0},
        "strategies": ["ema", "input_noise", "distant_start"],
        "eval_every": 4,
    },
}

PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {"steps": 60, "epochs": 8, "eval_every": 0, "eval_frames": 120},
    "demo": {"steps": 1000, "epochs": 20, "eval_every": 5},
    "full": {},
}


def load_config(
    profile: str = "full",
    preset: str = "lab",
    data: str | os.PathLike | None = None,
    overrides: dict[str, Any] | None = None,
) -> Config:
    """The configuration a command or notebook means: defaults, then preset, profile, dataset and overrides.

    data: a folder in the LAB4 layout; without it `$LAB4_DATA`, and without that the synthetic dancer.
    Raises `Lab4Error` for an unknown profile, preset or key.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    root = data or os.environ.get("LAB4_DATA")
    dataset = {"data": {"kind": "lab4", "root": str(root)}} if root else {}
    return Config.from_dict(layer({"name": preset}, PRESETS[preset], PROFILES[profile], dataset, overrides or {}))
