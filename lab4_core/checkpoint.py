"""Checkpoints: plain tensors and numbers in one file, written whole or not at all, read without running code."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lab4_core.errors import Lab4Error
from lab4_core.paths import check_file, replacing

T = TypeVar("T")


def save(path: str | os.PathLike, state: dict[str, Any], previous: str = "") -> None:
    """Write a checkpoint. `previous` names a file beside it under which the old one is kept: should the new one turn
    out to be damaged, only the training between the two is lost.

    At every instant one of the two is whole. Raises `Lab4Error` if the disk is full or the folder is not writable.
    """
    try:
        with replacing(path, previous) as temporary:
            torch.save(state, temporary)
    except RuntimeError as e:  # torch's writer reports a full disk in its own words
        raise Lab4Error(f"cannot write {path}: {e}; expected a folder with room left") from e


def load(path: str | os.PathLike, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint onto a device.

    Only tensors and plain values are read (`weights_only=True`): a file that would run code is refused. Raises
    `Lab4Error` for a file that is missing, truncated, refused, or not a checkpoint.
    """
    path = Path(path)
    check_file(path, f"checkpoint {path}")
    try:
        _check_archive(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except Lab4Error:
        raise
    except pickle.UnpicklingError as e:
        raise Lab4Error(
            f"checkpoint {path}: holds pickled objects, which could run code, or is not a checkpoint at all; "
            "expected tensors and plain values only"
        ) from e
    except Exception as e:  # a damaged file can fail in any way
        said = not isinstance(e, (KeyError, OSError)) and str(e).splitlines()  # these two only give a bare number
        raise Lab4Error(f"checkpoint {path}: truncated or not a checkpoint{f' ({said[0]})' if said else ''}") from e
    if not isinstance(state, dict):
        raise Lab4Error(f"checkpoint {path}: holds a {type(state).__name__}, expected a dict of tensors")
    return state


def load_newest(
    folder: Path, names: tuple[str, ...], take: Callable[[dict[str, Any], Path], T], device: torch.device | str = "cpu"
) -> T | None:
    """What `take(state, path)` returns for the first of these checkpoints that can be read and taken.

    None if none of the files exists. An unusable one is reported and skipped; the one that is taken is renamed to the
    first name. Raises `Lab4Error` if none can be taken.
    """
    problems: list[Lab4Error] = []
    for path in (folder / name for name in names):
        if not path.exists():
            continue
        try:
            taken = take(load(path, device), path)
        except Lab4Error as e:
            problems.append(e)
            continue
        if problems:
            print(f"lab4: {problems[0]}; going on from {path.name} instead", file=sys.stderr)
        with suppress(OSError):  # the next save must not move a damaged file over the good one
            os.replace(path, folder / names[0])
        return taken
    if problems:
        raise Lab4Error(f"{problems[0]}; expected a checkpoint of this run. resume='never' begins anew")
    return None


def _check_archive(path: Path) -> None:
    """Refuse a zip that does not hold plain tensors: a TorchScript archive, which holds code and which torch.load
    would pass on to torch.jit.load, and a zip bomb. torch stores tensors uncompressed, so a file that unpacks to more
    than its own size was not written by it."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.split("/")[-1] == "constants.pkl" for entry in entries):  # how torch recognises one
        raise Lab4Error(
            f"checkpoint {path}: a TorchScript archive, which holds code; expected tensors and plain values"
        )
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > path.stat().st_size:
        raise Lab4Error(f"checkpoint {path}: {path.stat().st_size} bytes that unpack to {unpacked}; expected as many")


def check_like(own: Any, found: Any, where: str) -> None:
    """Raise `Lab4Error` unless `found` is a tree with the same keys and lengths as `own`, and with tensors of the same
    shapes and types. Numbers may differ in value; where `own` has None, anything goes."""

    def refuse(what: str, expected: str) -> Lab4Error:
        return Lab4Error(f"{where} is {what}: expected {expected}")

    if isinstance(own, Tensor):
        if not isinstance(found, Tensor) or found.shape != own.shape or found.dtype != own.dtype:
            what = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise refuse(what, f"a tensor {tuple(own.shape)} {own.dtype}")
    elif isinstance(own, dict):
        if not isinstance(found, dict) or own.keys() != found.keys():
            what = list(found)[:5] if isinstance(found, dict) else f"a {type(found).__name__}"
            raise refuse(f"{what}", f"{list(own)[:5]} ({len(own)} in all)")
        for key, value in own.items():
            check_like(value, found[key], f"{where}: {key}")
    elif isinstance(own, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(own) != len(found):
            raise refuse(f"a {type(found).__name__}", f"{len(own)} entries")
        for i, (value, other) in enumerate(zip(own, found)):
            check_like(value, other, f"{where}[{i}]")
    elif own is not None:
        kinds = (int, float) if isinstance(own, float) else type(own)
        if not isinstance(found, kinds) or isinstance(found, bool) != isinstance(own, bool):
            raise refuse(f"a {type(found).__name__}", f"a {type(own).__name__}")


def weights_file(
    model: dict[str, Any],
    weights: dict[str, Tensor],
    frame_shape,
    cond_shape,
    psnr: float | None = None,
    epoch: int = -1,
    run: str | None = None,
    scores: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The contents of best.pt: the weights, what it takes to build their model without the dataset, and how they
    scored: `psnr` at `epoch` of the run with fingerprint `run`, and `scores`, the evaluation frame by frame."""
    return {"weights": weights, "model": model, "frame_shape": list(frame_shape), "cond_shape": list(cond_shape),
            "psnr": psnr, "epoch": epoch, "run": run, "scores": scores}  # fmt: skip


def check_weights(model: nn.Module, weights: Any, source: str) -> None:
    """Raises a `Lab4Error` that counts the names and shapes that differ from the model's and gives the first."""
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise Lab4Error(f"{source}: no dict of tensors where the weights should be")
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


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights into a model. Everything is checked first, so a checkpoint of another model leaves this one
    untouched. Raises `Lab4Error` as `check_weights` does, and for numbers that are not finite."""
    check_weights(model, weights, source)
    try:
        for name, value in weights.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise Lab4Error(f"{source}: {name} holds numbers that are not finite; expected trained weights")
        model.load_state_dict(weights)
    except (RuntimeError, NotImplementedError, TypeError) as e:  # sparse, quantized or meta tensors
        raise Lab4Error(f"{source}: its tensors are of a kind that no model here has ({e})") from e


def build_with(part: Any, shapes: Sequence[tuple[int, ...]], weights: Any, source: str) -> nn.Module:
    """The model that a registered part builds for frames and conditions of these shapes, with these weights. They are
    checked before anything is allocated, since a file may claim any width. Raises a `Lab4Error` that begins with
    `source`."""
    check_weights(plan_of(part, shapes, source), weights, source)
    model = part.build(*shapes)
    load_weights(model, weights, source)
    return model


def plan_of(part: Any, shapes: Sequence[tuple[int, ...]], source: str) -> nn.Module:
    """The model that a part builds, on the meta device: names and shapes of its tensors, without memory. Raises a
    `Lab4Error` that begins with `source` if that fails, as when its constructor reads a number back from a tensor."""
    try:
        with torch.device("meta"):
            return part.build(*shapes)
    except (Lab4Error, RuntimeError, TypeError, OverflowError) as e:
        raise Lab4Error(f"{source}: {e}") from e


def bare_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The weights in a file from elsewhere: bare, or as `{"state_dict": …, …}`, which includes the lab's
    `{"state_dict", "optimizer", "lr", "tfr", "last_epoch"}`. Raises `Lab4Error` for anything else.

    The lab's `optimizer` is ignored: by a mistake in the lab's template it is a second copy of the weights.
    """
    state = load(path)
    weights = state.get("state_dict", state)
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise Lab4Error(f"checkpoint {path}: expected a dict of tensors, or one under 'state_dict'")
    return {str(k).removeprefix("module."): v for k, v in weights.items()}


def check_optimizer(optimizer: torch.optim.Optimizer, state: Any, where: str) -> None:
    """Raise `Lab4Error` unless `state` can be loaded into `optimizer`: torch itself accepts a state of the wrong
    shapes and fails at the next step."""
    try:
        own = optimizer.state_dict()["param_groups"]
        found, moments = state["param_groups"], state["state"]
        check_like(own, found, f"{where}: optimizer: param_groups")
        fits = all(f["params"] == o["params"] for f, o in zip(found, own))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for i, values in moments.items():
            fits = fits and isinstance(values, dict) and all(like_moment(v, parameters[i]) for v in values.values())
    except (TypeError, KeyError, AttributeError, IndexError, RuntimeError) as e:  # a tensor has values() too
        raise Lab4Error(f"{where}: optimizer: no state of an optimizer ({e!r})") from e
    if not fits:
        raise Lab4Error(f"{where}: optimizer: a state of other parameters; expected one of this model and optimizer")


def like_moment(value: Any, parameter: Tensor) -> bool:
    """Whether `value` can be optimizer state of this parameter: a number, or a dense tensor of its shape."""
    if not isinstance(value, Tensor):
        return True
    return value.layout == torch.strided and (value.numel() == 1 or value.shape == parameter.shape)
