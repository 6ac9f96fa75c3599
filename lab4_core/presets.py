"""Presets (recipes) and profiles (amounts of work): dicts of overrides of `Config`, nothing else."""

from __future__ import annotations

import os
from typing import Any

from lab4_core import registry
from lab4_core.config import Config, layer
from lab4_core.errors import Lab4Error, unknown
from lab4_core.registry import check

# For two CPU cores: a U-Net CVAE at a fraction of the FLOPs, short random windows, EMA weights. Every clip begins with
# a frame from elsewhere, so that the pose has to be read; for some the reference is the frame just before, so that what
# has not moved is copied; and people are moved to places where no clip shows them.
FROM_ELSEWHERE = ["ema", "input_noise", {"kind": "distant_start", "share": 1.0, "near": 0.2}]
COMPACT: dict[str, Any] = {
    "model": "compact",
    "batch_size": 10,
    "n_frames": 3,
    "windows": "random",
    "epochs": 20,
    "optimizer": {"kind": "muon", "lr": 5e-3},
    "lr_schedule": {"kind": "cosine", "warmup": 0.02},
    "beta": 1e-4,
    "loss.l1": 0.25,
    "annealing.cycles": 4,
    "teacher_forcing": {"kind": "constant", "ratio": 0.0},
    "strategies": [*FROM_ELSEWHERE, "moved_person"],
    "eval_every": 4,
}
SCRATCH = COMPACT | {
    "model": {"kind": "compact", "width": 48, "depth": 2, "pose_reach": 3, "pose_gain": 4.0},
    "strategies": [*FROM_ELSEWHERE, {"kind": "moved_person", "light": "scaled"}],
    "epochs": 100,
    "eval_every": 10,
    "keep": "last",
}
# Twice the windows of half as many predictions: two frames in a row are nearly one, so a step sees twice as many poses.
# Every window then is one prediction from a frame elsewhere, and none continues another: a rollout, whose input is its
# own frame of just before, has it easier than the training.
SINGLE_STEPS: dict[str, Any] = {"n_frames": 2, "batch_size": 20}
# What the score averages, the dB of each frame: a squared error is for the few frames that are hard to predict, people
# close to the camera and half outside. For a long training, or one that does not begin from nothing.
DECIBELS: dict[str, Any] = {"loss.mse": "log", "loss.l1": 0.0, "beta": 0.05}

PRESETS: dict[str, dict[str, Any]] = {
    # The lab as it is handed out: every default of Config.
    "lab": {},
    "compact": COMPACT,
    # The same, wider and for longer: half an hour and more on two CPU cores. Its last weights count: the validation
    # clip of the lab is nearly static, and the best of many looks at it would be the weights that copy most.
    # It begins with the weights of the model that comes along, which has learnt to draw the synthetic dancer. Its
    # rollouts are averages, so it is looked at less often.
    "best": SCRATCH
    | SINGLE_STEPS
    | DECIBELS
    | {"strategies": ["warm_start", *SCRATCH["strategies"], "averaged_views"], "eval_every": 25},
    # From random weights, under the loss and on the windows of compact: how that model was begun.
    "best-scratch": SCRATCH,
    # For a GPU: twice as wide, five times the windows a step.
    "best-gpu": SCRATCH
    | SINGLE_STEPS
    | DECIBELS
    | {
        "model": SCRATCH["model"] | {"width": 96, "depth": 3},
        "strategies": [*SCRATCH["strategies"], "averaged_views"],
        "batch_size": 96,
        "epochs": 2000,
        "eval_every": 100,
    },
    # The lab's earlier version, 22.2 M parameters, for as long as its defaults say, 300 epochs of 600 iterations;
    # learning rate, cycles and the epoch from which teacher forcing decays are those of report_001.
    "svg-lab": {
        "model": "svg",
        "batch_size": 12,
        "n_past": 2,
        "n_frames": 12,
        "windows": "random",
        "epochs": 300,
        "steps": 180_000,
        "optimizer": {"kind": "adam", "lr": 2e-3},
        "lr_schedule": "constant",
        "beta": 1e-4,
        "annealing": {"kind": "cyclical", "cycles": 4, "unit": "step"},
        "teacher_forcing": {"kind": "linear", "start_decay": 76, "decay_step": 1 / 225, "draw": "batch"},
        "detach": False,
        "grad_clip": 0.0,
        "eval_every": 5,
        "eval_frames": 12,
        "psnr": "channel",
    },
    # The same idea for two CPU cores: folded pixels in the stead of the fine VGG stages, short clips, a mask that
    # copies what does not move.
    "svg-compact": {
        "model": {
            "kind": "svg",
            "width": 32,
            "g_dim": 64,
            "z_dim": 8,
            "rnn_size": 128,
            "output": "mask",
            "fold": 4,
            # metres and radians of the BAIR data, to numbers that count beside the vector's
            "cond_mean": [0, 0, 0, 0, 0.55, 0, 0.2],
            "cond_std": [0.007, 0.007, 0.03, 0.2, 0.012, 0.018, 0.004],
        },
        "batch_size": 8,
        "n_past": 2,
        "n_frames": 6,
        "windows": "random",
        "epochs": 40,
        "optimizer": {"kind": "muon", "lr": 5e-3},
        "lr_schedule": {"kind": "cosine", "warmup": 0.02},
        "beta": 1e-4,
        "annealing": {"kind": "cyclical", "cycles": 4, "unit": "step"},
        "teacher_forcing": {"kind": "linear", "start_decay": 1, "decay_step": 0.5, "draw": "batch"},
        "detach": False,
        "strategies": ["ema"],
        "eval_every": 4,
        "eval_frames": 12,
        "psnr": "channel",
    },
}

# A model's conditions decide what data it needs: (variable with their root, kind of the data there, kind without one).
SOURCES = {"poses": ("LAB4_DATA", "lab4", "dancer"), "actions": ("BAIR_DATA", "bair", "robot")}

PROFILES: dict[str, dict[str, Any]] = {
    # what it prints is compared, so its arithmetic is that of every processor
    "smoke": {"precision": "fp32", "steps": 150, "epochs": 10, "eval_every": 0, "eval_frames": 120},
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

    data: a folder in the layout that the model needs, or of the dataset that the overrides name; without it
    `$LAB4_DATA`, and without that the synthetic dancer; for the svg model `$BAIR_DATA` and the robot twin. Raises
    `Lab4Error` for an unknown profile, preset or key.
    """
    if not isinstance(profile, str) or profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    check(data is None or isinstance(data, (str, os.PathLike)), "data", data, "a folder with the dataset, as text")
    variable, there, made_here = source(preset, overrides)
    named = layer(overrides or {}).get("data")
    kind = named.get("kind") if isinstance(named, dict) else named
    kind = kind if isinstance(kind, str) else there
    if data and kind != there and not hasattr(registry.part_class("data", kind), "root"):
        raise Lab4Error(f"data = {str(data)!r} and a dataset of the kind {kind!r}: expected one of them")
    root = os.path.expanduser(data or os.environ.get(variable) or "")
    if os.path.isdir(root):  # a run is looked at from other folders too
        root = os.path.abspath(root)
    dataset = {"data": {"kind": kind if data else there, "root": root} if root else made_here}
    if data and isinstance(named, dict):
        overrides = {**overrides, "data": {**named, "root": root}}
    amount = dict(PROFILES[profile])
    if amount.get("eval_frames", 0) > PRESETS[preset].get("eval_frames", 630):
        del amount["eval_frames"]  # a profile shortens an evaluation and does not lengthen it
    return Config.from_dict(layer({"name": preset}, PRESETS[preset], amount, dataset, overrides or {}))


def source(preset: str, overrides: dict[str, Any] | None = None) -> tuple[str, str, str]:
    """Where the data of a configuration come from: an entry of `SOURCES`."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    model = layer(PRESETS[preset], overrides or {}).get("model", "lab")
    kind = model.get("kind") if isinstance(model, dict) else model
    known = isinstance(kind, str) and kind in registry.kinds("model")  # what else it may be, Config refuses
    return SOURCES[registry.part_class("model", kind).conditions if known else "poses"]
