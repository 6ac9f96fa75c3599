"""Presets (recipes) and profiles (amounts of work): dicts of overrides of `Config`, nothing else."""

from __future__ import annotations

import os
from typing import Any

from lab4_core import registry
from lab4_core.config import Config, kind_of, layer
from lab4_core.errors import Lab4Error, unknown
from lab4_core.registry import check

# For two CPU cores: a U-Net CVAE at a fraction of the FLOPs, short random windows, EMA weights. Every window starts
# with a frame from elsewhere, so that the pose has to be read; for some the reference is the frame just before, so that
# what has not moved is copied; and people are moved to places where no clip shows them.
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
# Twice as many windows of half as many predictions: consecutive frames are nearly alike, so a step sees twice as many
# poses. Every window is then a single prediction from a frame elsewhere, and none continues another: training is harder
# than a rollout, whose input is its own frame from just before.
SINGLE_STEPS: dict[str, Any] = {"n_frames": 2, "batch_size": 20}
# The loss is what the score averages, the dB of each frame: a squared error mostly serves the few frames that are hard
# to predict, of people close to the camera and half outside. For long training, or training that starts from trained
# weights.
DECIBELS: dict[str, Any] = {"loss.mse": "log", "loss.l1": 0.0, "beta": 0.05}
LONG = SCRATCH | SINGLE_STEPS | DECIBELS
# What the presets for robot pushing share: two given frames and, in an evaluation, ten to predict.
PUSHING: dict[str, Any] = {
    "n_past": 2,
    "windows": "random",
    "beta": 1e-4,
    "annealing": {"kind": "cyclical", "cycles": 4, "unit": "step"},
    "detach": False,
    "eval_frames": 12,
    "psnr": "channel",
}

PRESETS: dict[str, dict[str, Any]] = {
    # The lab as handed out: every default of Config.
    "lab": {},
    "compact": COMPACT,
    # The same, wider and for longer: half an hour or more on two CPU cores. It keeps its last weights: the lab's
    # validation clip is nearly static, and the best of many evaluations on it would be the weights that copy most.
    # It starts from the weights of the shipped model, which has learnt to draw the synthetic dancer. Its rollouts
    # average several views, so it is evaluated less often.
    "best": LONG | {"strategies": ["warm_start", *SCRATCH["strategies"], "averaged_views"], "eval_every": 25},
    # From random weights, with the loss and the windows of compact: how the shipped model was begun.
    "best-scratch": SCRATCH,
    # For a GPU: twice as wide, five times as many windows per step.
    "best-gpu": LONG
    | {
        "model": SCRATCH["model"] | {"width": 96, "depth": 3},
        "strategies": [*SCRATCH["strategies"], "averaged_views"],
        "batch_size": 96,
        "epochs": 2000,
        "eval_every": 100,
    },
    # The lab's earlier version, 22.2 M parameters, for as long as its defaults say, 300 epochs of 600 iterations; the
    # learning rate, the cycles and the epoch at which teacher forcing starts to decay are those of report_001.
    "svg-lab": PUSHING
    | {
        "model": "svg",
        "batch_size": 12,
        "n_frames": 12,
        "epochs": 300,
        "steps": 180_000,
        "optimizer": {"kind": "adam", "lr": 2e-3},
        "lr_schedule": "constant",
        "teacher_forcing": {"kind": "linear", "start_decay": 76, "decay_step": 1 / 225, "draw": "batch"},
        "grad_clip": 0.0,
        "eval_every": 5,
    },
    # The same idea for two CPU cores: folded pixels instead of the fine VGG stages, short clips, a mask that copies
    # what does not move.
    "svg-compact": PUSHING
    | {
        "model": {
            "kind": "svg",
            "width": 32,
            "g_dim": 64,
            "z_dim": 8,
            "rnn_size": 128,
            "output": "mask",
            "fold": 4,
            # scale BAIR's metres and radians to numbers that count next to those of the frame's vector
            "cond_mean": [0, 0, 0, 0, 0.55, 0, 0.2],
            "cond_std": [0.007, 0.007, 0.03, 0.2, 0.012, 0.018, 0.004],
        },
        "batch_size": 8,
        "n_frames": 6,
        "epochs": 40,
        "optimizer": {"kind": "muon", "lr": 5e-3},
        "lr_schedule": {"kind": "cosine", "warmup": 0.02},
        "teacher_forcing": {"kind": "linear", "start_decay": 1, "decay_step": 0.5, "draw": "batch"},
        "strategies": ["ema"],
        "eval_every": 4,
    },
}

# A model's conditions decide what data it needs: (variable with the root, kind of data there, kind without a root).
SOURCES = {"poses": ("LAB4_DATA", "lab4", "dancer"), "actions": ("BAIR_DATA", "bair", "robot")}

PROFILES: dict[str, dict[str, Any]] = {
    # its output is compared, so it uses the arithmetic that every processor has
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
    """The configuration of a command or notebook: defaults, then preset, profile, dataset and overrides.

    data: a folder in the layout that the model needs, or in that of the dataset that the overrides name; by default
    `$LAB4_DATA`, else the synthetic dancer; for the svg model `$BAIR_DATA`, else the synthetic robot. Raises
    `Lab4Error` for an unknown profile, preset or key.
    """
    if not isinstance(profile, str) or profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    check(data is None or isinstance(data, (str, os.PathLike)), "data", data, "a folder with the dataset, as text")
    variable, there, made_here = source(preset, overrides)
    named = layer(overrides or {}).get("data")
    kind = kind_of(named) if isinstance(kind_of(named), str) else there
    if data and kind != there and not hasattr(registry.part_class("data", kind), "root"):
        raise Lab4Error(f"data = {str(data)!r} and a dataset of the kind {kind!r}: expected one of them")
    root = os.path.expanduser(data or os.environ.get(variable) or "")
    if os.path.isdir(root):  # a run is read from other folders too
        root = os.path.abspath(root)
    dataset = {"data": {"kind": kind if data else there, "root": root} if root else made_here}
    if data and isinstance(named, dict):
        overrides = {**overrides, "data": {**named, "root": root}}
    amount = dict(PROFILES[profile])
    if amount.get("eval_frames", 0) > PRESETS[preset].get("eval_frames", 630):
        del amount["eval_frames"]  # a profile may shorten an evaluation, never lengthen it
    return Config.from_dict(layer({"name": preset}, PRESETS[preset], amount, dataset, overrides or {}))


def source(preset: str, overrides: dict[str, Any] | None = None) -> tuple[str, str, str]:
    """Where a configuration's data come from: an entry of `SOURCES`."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    kind = kind_of(layer(PRESETS[preset], overrides or {}).get("model", Config.model))
    known = isinstance(kind, str) and kind in registry.kinds("model")  # Config refuses anything else
    return SOURCES[registry.part_class("model", kind).conditions if known else "poses"]
