"""The command lines of the lab's earlier version, robot pushing (report_001), in this project's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


def flag(help: str, default: Any = None, lab: Any = None) -> Any:
    """A flag that counts only if it is typed; `lab` is the default of the lab's template."""
    return field(default=default, metadata={"help": help, "lab": lab})


def no_effect(name: str, value: Any, why: str) -> str:
    """The note on a flag that was typed and changes nothing."""
    return f"--{name}{'' if value is True else f' {value}'} has no effect: {why}"


@dataclass(frozen=True, kw_only=True)
class BairFlags:
    """The flags that only train_fixed_prior.py has. All but the first four, which say nothing about the model, imply
    --preset svg-lab."""

    data_root: str | None = flag("BAIR version: the dataset; same as --data")
    log_dir: str | None = flag("BAIR version: where runs go; same as --out")
    model_dir: str | None = flag("no effect; a note says why")
    cuda: bool = flag("no effect; a note says why", False)
    niter: int | None = flag("BAIR version: epochs", lab=300)
    epoch_size: int | None = flag("BAIR version: iterations per epoch", lab=600)
    n_future: int | None = flag("BAIR version: frames predicted in training", lab=10)
    n_eval: int | None = flag("BAIR version: frames of an evaluation clip, the given ones included", lab=30)
    beta1: float | None = flag("BAIR version: beta1 of Adam", lab=0.9)
    rnn_size: int | None = flag("BAIR version: width of the LSTMs", lab=256)
    posterior_rnn_layers: int | None = flag("BAIR version: LSTM layers of the posterior", lab=1)
    predictor_rnn_layers: int | None = flag("BAIR version: LSTM layers of the frame predictor", lab=2)
    z_dim: int | None = flag("BAIR version: size of the latent z", lab=64)
    g_dim: int | None = flag("BAIR version: size of a frame's vector", lab=128)
    last_frame_skip: bool = flag("BAIR version: skips from every frame, not frozen after the given ones", False)
    tfr_start_decay_epoch: int | None = flag("BAIR version: last epoch before the ratio decays", lab=0)
    tfr_decay_step: float | None = flag("BAIR version: decrease of the ratio per epoch; 0: down to 0 at the end", lab=0)
    tfr_lower_bound: float | None = flag("BAIR version: smallest ratio", lab=0)
    kl_anneal_cyclical: bool = flag("BAIR version: cyclical annealing; monotonic without this flag", False)


# flag -> key of Config, where the value means the same; lr, tfr and the annealing flags come from LabFlags
RENAMED = {
    "lr": "optimizer.lr",
    "n_eval": "eval_frames",
    "beta1": "optimizer.beta1",
    "rnn_size": "model.rnn_size",
    "posterior_rnn_layers": "model.posterior_layers",
    "predictor_rnn_layers": "model.predictor_layers",
    "z_dim": "model.z_dim",
    "g_dim": "model.g_dim",
    "last_frame_skip": "model.last_frame_skip",
    "tfr": "teacher_forcing.ratio",
    "kl_anneal_ratio": "annealing.ratio",
}
BAIR_TOO = {*RENAMED, "kl_anneal_cycle"}  # some are flags of the pose version too
OURS = {f.name for f in fields(BairFlags)} - {"data_root", "log_dir", "model_dir", "cuda"}


def is_bair(typed: Mapping[str, Any]) -> bool:
    """Whether a command line is one of the BAIR version."""
    return bool(OURS & typed.keys())


def bair_overrides(typed: Mapping[str, Any], n_past: int | None, whole: bool) -> tuple[dict[str, Any], list[str]]:
    """(overrides of `Config` on top of the preset svg-lab, lines on flags without an effect) for the typed flags.

    n_past: from the same command line, if typed; n_future counts from it. whole: where no flag says otherwise, teacher
    forcing and annealing are the template's; without it, the preset's.
    """
    values: dict[str, Any] = {"model": "svg", **{key: typed[name] for name, key in RENAMED.items() if name in typed}}
    notes = []
    niter = typed.get("niter", 300)
    if typed.keys() & {"niter", "epoch_size"}:
        values |= {"epochs": niter, "steps": niter * typed.get("epoch_size", 600)}
    if n_past is not None or "n_future" in typed:
        values["n_frames"] = (n_past or 2) + typed.get("n_future", 10)
    if whole or typed.keys() & {"tfr", "tfr_start_decay_epoch", "tfr_decay_step", "tfr_lower_bound"}:
        start = typed.get("tfr_start_decay_epoch", 0)
        values |= {
            "teacher_forcing": "linear",
            "teacher_forcing.draw": "batch",
            "teacher_forcing.start_decay": start + 1,  # ours is the first epoch of the decay, theirs the one before
            "teacher_forcing.decay_step": typed.get("tfr_decay_step") or 1 / max(1, niter - start),
            "teacher_forcing.floor": typed.get("tfr_lower_bound", 0.0),
        }
    if whole or typed.keys() & {"kl_anneal_cyclical", "kl_anneal_ratio", "kl_anneal_cycle"}:
        values |= {"annealing": "cyclical" if "kl_anneal_cyclical" in typed else "monotonic", "annealing.unit": "step"}
        if "kl_anneal_cyclical" in typed:
            values["annealing.cycles"] = typed.get("kl_anneal_cycle", 3)
        elif "kl_anneal_cycle" in typed:
            notes.append(no_effect("kl_anneal_cycle", typed["kl_anneal_cycle"], "--kl_anneal_cyclical is not given"))
    return values, notes
