"""Checkpoints: plain tensors and numbers in one file, written whole or not at all, read without running code."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab4_core.errors import Lab4Error
from lab4_core.paths import replacing


def save(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Write a checkpoint. Raises `Lab4Error` when the disk is full or the folder cannot be written."""
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except RuntimeError as e:  # torch's writer reports a full disk in its own words
        raise Lab4Error(f"cannot write {path}: {e}; expected a folder with room left") from e


def load(path: str | os.PathLike, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint onto a device.

    Only tensors and plain values are read (`weights_only=True`): a file that would run code is refused. Raises
    `Lab4Error` for a file that is missing, truncated, refused, or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise Lab4Error(f"checkpoint {path}: no such file")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as e:
        raise Lab4Error(
            f"checkpoint {path}: holds pickled objects, which could run code, or is not a checkpoint at all; "
            "expected tensors and plain values only"
        ) from e
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, zipfile.BadZipFile) as e:
        first = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise Lab4Error(f"checkpoint {path}: truncated or not a checkpoint ({first})") from e
    if not isinstance(state, dict):
        raise Lab4Error(f"checkpoint {path}: holds a {type(state).__name__}, expected a dict of tensors")
    return state


def weights_file(
    model: dict[str, Any], weights: dict[str, Tensor], frame_shape, cond_shape, psnr: float | None, epoch: int
) -> dict[str, Any]:
    """What best.pt holds: weights, and what is needed to build their model without the dataset."""
    return {
        "weights": weights,
        "model": model,
        "frame_shape": list(frame_shape),
        "cond_shape": list(cond_shape),
        "psnr": psnr,
        "epoch": epoch,
    }


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Put weights into a model, every name and shape checked first.

    Raises `Lab4Error` that counts what differs and names the first: a checkpoint of another model leaves this
    one untouched.
    """
    own = model.state_dict()
    missing = [k for k in own if k not in weights]
    foreign = [k for k in weights if k not in own]
    shapes = [k for k in own if k in weights and tuple(weights[k].shape) != tuple(own[k].shape)]
    if missing or foreign or shapes:
        first = (
            f"{shapes[0]} is {tuple(weights[shapes[0]].shape)}, expected {tuple(own[shapes[0]].shape)}"
            if shapes
            else f"{missing[0]} is missing" if missing else f"{foreign[0]} is not in this model"
        )  # fmt: skip
        raise Lab4Error(
            f"{source}: a checkpoint of another model ({len(missing)} tensors missing, {len(foreign)} unknown, "
            f"{len(shapes)} of another shape; {first})"
        )
    model.load_state_dict(weights)


def lab_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The weights of a published checkpoint of the lab: `{"state_dict": …, "lr", "tfr", "last_epoch", …}` or bare.

    Its `optimizer` is, by a mistake in the lab's template, a second copy of the weights: it is left alone.
    """
    state = load(path)
    weights = state.get("state_dict", state)
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise Lab4Error(f"checkpoint {path}: expected a dict of tensors, or one under 'state_dict'")
    return {k.removeprefix("module."): v for k, v in weights.items()}
