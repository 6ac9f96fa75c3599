"""Presets (recipes) and profiles (amounts of work): dicts of overrides of `Config`, nothing else."""

from __future__ import annotations

import os
from typing import Any

from lab4_core.config import Config
from lab4_core.errors import unknown

PRESETS: dict[str, dict[str, Any]] = {
    # The lab as it is handed out: every default of Config.
    "lab": {},
    # For two CPU cores: a U-Net CVAE at a fraction of the FLOPs, short random windows, EMA weights.
    "compact": {
        "model": "compact",
        "batch_size": 4,
        "n_frames": 6,
        "windows": "random",
        "epochs": 10,
        "optimizer": {"kind": "adamw", "lr": 2e-3},
        "lr_schedule": {"kind": "cosine", "warmup": 0.02},
        "annealing.unit": "step",
        "annealing.stop": 1e-3,
        "teacher_forcing": {"kind": "constant", "ratio": 0.0},
        "strategies": [{"kind": "ema"}, {"kind": "input_noise"}],
        "eval_every": 2,
    },
}

PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {"steps": 60, "epochs": 4, "eval_every": 0, "eval_frames": 120},
    "demo": {"steps": 900, "epochs": 10, "eval_every": 2},
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
    overrides = overrides or {}
    values: dict[str, Any] = {"name": preset}
    root = data or os.environ.get("LAB4_DATA")
    dataset = {"data": {"kind": "lab4", "root": str(root)}} if root else {}
    for layer in (PRESETS[preset], PROFILES[profile], dataset, overrides):
        for key, value in layer.items():
            if "." not in key:  # a new part replaces what was said of the old one
                values = {k: v for k, v in values.items() if not k.startswith(f"{key}.")}
            values[key] = value
    return Config.from_dict(values)
