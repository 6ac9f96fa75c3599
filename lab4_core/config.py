"""What a run is: one frozen dataclass that notebooks, the command line, sweeps and checkpoints share.

Defaults are the lab's own. A preset is a recipe (a model and how it is trained), a profile is an amount
of work; both are just dicts of overrides, in `presets.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from lab4_core import registry
from lab4_core.errors import Lab4Error, unknown
from lab4_core.registry import check


def opt(default: Any, help: str) -> Any:
    """A field with the sentence that `--help` shows for it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run computes. Raises `Lab4Error` for a value of the wrong type or out of range.

    A part may be given by name or as a dict with `kind`, and a number as text. A field annotated with the name of a
    family holds a registered part of it, or several.
    """

    name: str = opt("run", "name of the run, with which its folder's name begins")
    seed: int = opt(0, "seed for weights, data order, noise and teacher-forcing draws")

    model: Annotated[Any, "model"] = opt("lab", "the network")
    data: Annotated[Any, "data"] = opt("dancer", "the dataset")
    loss: Annotated[Any, "loss"] = opt("elbo", "reconstruction + beta x KL")
    beta: float = opt(1.0, "weight of the KL term; annealing multiplies it")
    annealing: Annotated[Any, "annealing"] = opt("cyclical", "factor on beta over training")
    teacher_forcing: Annotated[Any, "teacher_forcing"] = opt("linear", "share of ground truth in the next input")
    optimizer: Annotated[Any, "optimizer"] = opt("adam", "the optimizer and its learning rate")
    lr_schedule: Annotated[Any, "lr_schedule"] = opt("multistep", "factor on the learning rate over training")
    strategies: Annotated[tuple, "strategy"] = opt((), "further training strategies, in order")

    detach: bool = opt(True, "cut the gradient at the previous prediction before it is fed back")
    grad_clip: float = opt(1.0, "largest gradient norm; 0 does not clip")
    skip_nonfinite: int = opt(0, "how many steps with a non-finite loss or gradient to skip before the run stops")

    hold_out: int | None = opt(None, "train without this training clip (0, 1, ...) and validate on it instead of val")

    n_past: int = opt(1, "given frames at the start of a clip")
    n_frames: int = opt(16, "frames in a training clip, including the given ones")
    windows: Literal["fixed", "random"] = opt(
        "fixed", "fixed: consecutive windows, no overlap; random: starting anywhere, never across a known cut"
    )
    shuffle: bool = opt(False, "put fixed windows in a new order every epoch")
    batch_size: int = opt(2, "clips in a batch")
    epochs: int = opt(70, "epochs; with steps or minutes set, the number of equal periods in the schedules and the log")
    steps: int | None = opt(None, "train for this many optimizer steps; the schedules are stretched over them")
    minutes: float | None = opt(None, "train for this many minutes of wall time; the schedules are stretched over them")
    partial: float = opt(1.0, "share of the training frames to use, counted from the first")
    fast_partial: float = opt(0.4, "share of the training frames used during the fast epochs")
    fast_epochs: int = opt(0, "how many epochs at the start use only fast_partial of the frames")

    eval_every: int = opt(1, "epochs between evaluations on the validation clip; 0 evaluates only at the end")
    eval_frames: int = opt(630, "frames in an evaluation clip, including the given ones")
    keep: Literal["best", "last"] = opt(
        "best", "which weights to keep: those that scored best on val, or those of the last step"
    )
    eval_samples: int = opt(1, "rollouts with different z per clip, whose scores are averaged")
    psnr: Literal["frame", "channel"] = opt(
        "frame", "PSNR of a frame: from the error of all its values, or the mean of those of R, G and B (the BAIR lab)"
    )
    z_scale: float = opt(1.0, "standard deviation of z at test time (1: the prior itself)")
    save_every: int = opt(1, "epochs between checkpoints")

    device: str = opt("auto", "cpu, cuda, cuda:1, mps or auto (cuda when there is one)")
    precision: Literal["auto", "fp32", "bf16"] = opt(
        "auto", "arithmetic of training and rollouts (auto: bf16 where it is fast); metrics are always fp32"
    )

    def __post_init__(self):
        for name, hint in registry.hints(Config).items():
            object.__setattr__(self, name, registry.coerce(getattr(self, name), hint, name))
        at_least = {"n_past": 1, "n_frames": 2, "batch_size": 1, "epochs": 1, "eval_every": 0, "eval_frames": 2,
                    "eval_samples": 1, "z_scale": 0, "save_every": 1, "grad_clip": 0, "fast_epochs": 0,
                    "beta": 0, "seed": 0, "skip_nonfinite": 0}  # fmt: skip
        for name, low in at_least.items():
            check(getattr(self, name) >= low, name, getattr(self, name), f"{low} or more")
        check(self.seed < 2**63, "seed", self.seed, "less than 2 to the power of 63")
        for name in ("partial", "fast_partial"):
            check(0 < getattr(self, name) <= 1, name, getattr(self, name), "a share in (0, 1]")
        for name in ("steps", "minutes"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "more than 0, or nothing")
        check(self.steps is None or self.minutes is None, "steps and minutes", (self.steps, self.minutes),
              "at most one of them")  # fmt: skip
        check(self.n_frames > self.n_past, "n_frames", self.n_frames, f"more than n_past = {self.n_past}")
        check(self.eval_frames > self.n_past, "eval_frames", self.eval_frames, f"more than n_past = {self.n_past}")
        check(0 < len(self.name) <= 100 and all(c.isalnum() or c in "-_." for c in self.name) and self.name[0] != ".",
              "name", self.name, "1 to 100 letters, digits, '-', '_' and '.'")  # fmt: skip

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """A checked `Config` from plain values. Keys are field names, or `part.field` for one value of a part.

        Raises `Lab4Error` for an unknown key (with the nearest name), a wrong type or a value out of range.
        """
        return registry.from_dict(Config, merge(values), where="the configuration")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `Config.from_dict(cfg.to_dict()) == cfg`."""
        return {f.name: registry.plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def replace(self, **values: Any) -> Config:
        """A copy with some fields changed; values as in `from_dict` (`**{"annealing.cycles": 4}`)."""
        return Config.from_dict({**self.to_dict(), **values})

    def fingerprint(self, digest: str = "") -> str:
        """12 hex digits that identify what the run computes, from its configuration and the data's own digest.

        Runs with the same fingerprint are the same run: `train` returns the finished one instead of repeating it.
        The name, the location of the data (unlike their content), the device and the interval of checkpoints do not
        count. Nor does `skip_nonfinite`, so that a run which stopped at a non-finite loss can go on with more skips.
        """
        apart = ("name", "device", "data", "save_every", "skip_nonfinite")
        values = {k: v for k, v in self.to_dict().items() if k not in apart}
        text = json.dumps([values, digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def code(self) -> str:
        """12 hex digits of the source files of this configuration's parts. Not included in the fingerprint: it shows
        whether their code has changed since a run finished."""
        parts = [getattr(self, name) for name in families()]
        flat = [p for part in parts for p in (part if isinstance(part, tuple) else (part,))]
        files = {inspect.getmodule(type(p)): None for p in flat}
        texts = [Path(m.__file__).read_bytes() for m in files if getattr(m, "__file__", None)]  # cells have none
        return hashlib.sha256(b"".join(texts)).hexdigest()[:12]


@functools.cache
def families() -> dict[str, str]:
    """The fields that hold registered parts, each with the family of its part."""
    hints = registry.hints(Config).items()
    return {name: hint.__metadata__[0] for name, hint in hints if get_origin(hint) is Annotated}


def layer(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge overrides; later ones win.

    A part set to another kind loses the values of the old one; naming the kind it already has changes nothing.
    `annealing.kind` is a longer name for `annealing`. A length in steps or minutes replaces an earlier one.
    """
    values: dict[str, Any] = {}
    for new in map(checked_keys, layers):
        if any(new.get(name) is not None for name in ("steps", "minutes")):
            values = {k: v for k, v in values.items() if k not in ("steps", "minutes")}
        new = {part if (part := k.removesuffix(".kind")) in families() else k: v for k, v in new.items()}
        for key in sorted(new, key=lambda k: "." in k):  # the part first, then its values
            if key in families() and kind_of(values.get(key, getattr(Config, key))) == new[key]:
                values.setdefault(key, new[key])
                continue
            values = {k: v for k, v in values.items() if not k.startswith(f"{key}.")}
            values[key] = new[key]
    return values


def checked_keys(values: Any) -> Mapping[str, Any]:
    """The overrides, checked to be a mapping whose keys are text: a notebook's parameters may be anything."""
    if not isinstance(values, Mapping):
        raise Lab4Error(f"overrides = {values!r}: expected a mapping such as {{'annealing': 'monotonic'}}")
    for key in values:
        if not isinstance(key, str):
            raise Lab4Error(f"overrides: key {key!r}: expected the name of a field of the configuration")
    return values


def kind_of(part: Any) -> Any:
    """The kind in what a user writes for a part: its name, or a dict."""
    return part.get("kind") if isinstance(part, Mapping) else part


def merge(values: dict[str, Any]) -> dict[str, Any]:
    """Fold `part.field` keys into the dict of their part: `annealing.cycles` becomes an entry of `annealing`.

    A key without a dot sets the whole part and comes first, whatever the order of the keys.
    """
    merged = {k: v for k, v in checked_keys(values).items() if "." not in k}
    for name in merged:
        if name not in registry.hints(Config):
            raise unknown("field of the configuration", name, registry.hints(Config))
    for key, value in values.items():
        if "." not in key:
            continue
        name, _, inner = key.partition(".")
        if name == "strategies":
            raise Lab4Error(f"{key}: expected the whole list, as in strategies = ema,input_noise")
        if name not in families():
            raise unknown("part of the configuration", name, families())
        whole = registry.build(families()[name], merged.get(name, getattr(Config, name)))
        merged[name] = {**registry.spec_of(whole), inner: value}
    return merged
