"""The command lines of the lab's own Trainer.py and Tester.py, as students typed them, in this project's terms.

`LabFlags` has every flag of the lab's template and of the reports that `Config` does not have under the same name.
`lab_overrides` translates each one, or says in one line why it has no effect.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab4_core.cli.bair_flags import BAIR_TOO, BairFlags, bair_overrides, flag, is_bair, no_effect
from lab4_core.errors import Lab4Error, unknown

# values of --kl_anneal_type, in any case; the reports' None and NoKL_Annealing are the same thing
ANNEALING = {
    "cyclical": "cyclical",
    "monotonic": "monotonic",
    "nokl_annealing": "none",
    "none": "none",
    "without": "none",
}


@dataclass(frozen=True, kw_only=True)
class LabFlags(BairFlags):
    """The lab's own flags, for the command lines of Trainer.py and Tester.py. Any of them implies --preset lab (those
    of the BAIR version: svg-lab) and --profile full, unless these are given."""

    DR: str | None = flag("the dataset; same as --data")
    save_root: str | None = flag("where runs (train) or submission.csv and GIFs (test) go; same as --out")
    ckpt: str | None = flag("a published checkpoint (.ckpt), or a run of this project")
    ckpt_path: str | None = flag("same as --ckpt; a folder means the newest checkpoint or run in it")
    test: bool = flag("train: evaluate the checkpoint on val instead of training", False)

    num_epoch: int | None = flag("epochs", lab=70)
    lr: float | None = flag("learning rate", lab=1e-3)
    optim: str | None = flag("Adam or AdamW", lab="Adam")
    train_vi_len: int | None = flag("frames per training clip", lab=16)
    val_vi_len: int | None = flag("frames of the validation clip", lab=630)
    frame_H: int | None = flag("height frames are resized to, pixels", lab=32)
    frame_W: int | None = flag("width frames are resized to, pixels", lab=64)
    F_dim: int | None = flag("channels of the frame features", lab=128)
    L_dim: int | None = flag("channels of the pose features", lab=32)
    N_dim: int | None = flag("channels of the latent z", lab=12)
    D_out_dim: int | None = flag("channels of the fused features", lab=192)
    tfr: float | None = flag("teacher-forcing ratio at the start, 0 to 1", lab=1.0)
    tfr_sde: int | None = flag("epoch at which the ratio starts to decay", lab=10)
    tfr_d_step: float | None = flag("decrease of the ratio per epoch", lab=0.1)
    fast_train: bool = flag("use only fast_partial of the frames during the first epochs", False)
    fast_train_epoch: int | None = flag("the second-to-last of these epochs, counted from 0", lab=5)
    # text, not `str | None`: "None" is one of its values
    kl_anneal_type: str = flag("Cyclical, Monotonic, NoKL_Annealing or None", "", lab="Cyclical")
    kl_anneal_cycle: int | None = flag("cycles of the cyclical type; report_004 means epochs per cycle", lab=10)
    kl_anneal_ratio: float | None = flag("share of a cycle in which beta rises; report_004 means 1 / that", lab=1)
    per_save: int | None = flag("epochs between checkpoints", lab=3)

    use_wandb: bool = flag("log to Weights & Biases, offline", False)
    plot_training_loss: bool = flag("draw the loss curves into the run's folder", False)
    plot_psnr: bool = flag("draw PSNR per frame into the run's folder", False)
    no_weight_interpolation: bool = flag("report_003: no interpolation with the initial weights", False)

    store_visualization: bool = flag("no effect; a note says why", False)
    num_workers: int | None = flag("no effect; a note says why", lab=4)
    gpu: int | None = flag("no effect; a note says why", lab=1)
    no_sanity: bool = flag("no effect; a note says why", False)
    make_gif: bool = flag("no effect; a note says why", False)


@dataclass(frozen=True, kw_only=True)
class TesterFlags(LabFlags):
    """The lab's own flags. Tester.py takes all of Trainer.py's; those for training have no effect."""

    batch_size: int | None = flag("no effect; a note says why", lab=2)
    partial: float | None = flag("no effect; a note says why", lab=1.0)
    fast_partial: float | None = flag("no effect; a note says why", lab=0.4)


# flag -> key of Config, where the value means the same
RENAMED = {
    "num_epoch": "epochs",
    "lr": "optimizer.lr",
    "train_vi_len": "n_frames",
    "val_vi_len": "eval_frames",
    "frame_H": "data.height",
    "frame_W": "data.width",
    "F_dim": "model.f_dim",
    "L_dim": "model.l_dim",
    "N_dim": "model.n_dim",
    "D_out_dim": "model.d_dim",
    "tfr": "teacher_forcing.ratio",
    "tfr_sde": "teacher_forcing.start_decay",
    "tfr_d_step": "teacher_forcing.decay_step",
    "kl_anneal_ratio": "annealing.ratio",
    "kl_anneal_cycle": "annealing.cycles",
    "per_save": "save_every",
}
NO_EFFECT = {
    "cuda": "a GPU is used when there is one; --device cpu does without",
    "model_dir": "an interrupted run continues when its command is repeated",
    "num_workers": "frames live in memory, no worker processes are used",
    "gpu": "the lab's template never reads it; --device cuda:1 names a GPU",
    "no_sanity": "nothing is asked before a checkpoint is read",
    "make_gif": "lab4 test always writes the GIFs",
    "store_visualization": "training writes no GIFs; lab4 test RUN makes them from the finished run",
    "no_weight_interpolation": "weights are not interpolated unless the strategy cosine_interpolation asks for it",
}
PATHS = ("DR", "save_root", "ckpt", "ckpt_path", "data_root", "log_dir")
TESTING = {*PATHS, "test", "F_dim", "L_dim", "N_dim", "D_out_dim", "frame_H", "frame_W", "make_gif"}


def given(flags: LabFlags) -> dict[str, Any]:
    """The flags that were typed, with their values."""
    return {f.name: value for f in dataclasses.fields(flags) if (value := getattr(flags, f.name)) != f.default}


def one_of(**options: str | None) -> str | None:
    """Of options with the same meaning, by name, the path given. Raises `Lab4Error` if several are and they differ."""
    given = {"RUN" if name == "RUN" else f"--{name}": value for name, value in options.items() if value}
    if len(set(given.values())) > 1:
        said = " and ".join(f"{name} {value}" for name, value in given.items())
        raise Lab4Error(f"{said}: they mean the same, expected one of them")
    return local_path(next(iter(given.values()), None))


def data_root(data: str | None, flags: LabFlags) -> str | None:
    """The dataset that --data, or a flag of the lab with the same meaning, names."""
    return one_of(data=data, DR=flags.DR, data_root=flags.data_root)


def out_folder(out: str | None, flags: LabFlags) -> str | None:
    """The same for --out."""
    return one_of(out=out, save_root=flags.save_root, log_dir=flags.log_dir)


def lab_overrides(
    flags: LabFlags, n_past: int | None = None, preset: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """(overrides of `Config`, lines on the flags without an effect) of a Trainer.py command line. n_past, preset: from
    the same command line; n_future counts from n_past, and a preset decides what the flags of the BAIR version leave
    open.

    The flags of teacher forcing and of annealing replace the whole part, so they mean the lab's whatever the preset.
    Raises `Lab4Error` for an unknown --kl_anneal_type or --optim.
    """
    typed = given(flags)
    values: dict[str, Any] = {}
    notes = [no_effect(name, typed[name], why) for name, why in NO_EFFECT.items() if name in typed]
    if is_bair(typed):
        values, more = bair_overrides(typed, n_past, whole=preset is None)
        pose = (RENAMED.keys() | {"optim", "kl_anneal_type", "fast_train", "fast_train_epoch"}) - BAIR_TOO
        why = "the other flags are those of the BAIR version, which does not know it"
        notes += [no_effect(name, value, why) for name, value in typed.items() if name in pose]
        return values, notes + more

    if "optim" in typed:
        values["optimizer"] = _choice("optim", flags.optim, {"adam": "adam", "adamw": "adamw"})
        if values["optimizer"] == "adamw":
            values["optimizer.beta2"] = 0.999  # torch's, as the lab leaves it
        values["optimizer.lr"] = 1e-3  # the lab's, whichever optimizer
    if typed.keys() & {"tfr", "tfr_sde", "tfr_d_step"}:
        values["teacher_forcing"] = {"kind": "linear"}
    if typed.keys() & {"kl_anneal_type", "kl_anneal_ratio", "kl_anneal_cycle"}:
        kind = _choice("kl_anneal_type", flags.kl_anneal_type or "Cyclical", ANNEALING)
        values["annealing"] = {"kind": kind}
        unused = {"none": ("kl_anneal_ratio", "kl_anneal_cycle"), "monotonic": ("kl_anneal_cycle",)}
        for name in unused.get(kind, ()):
            if name in typed:
                notes.append(no_effect(name, typed.pop(name), f"annealing is {kind}"))
    if flags.fast_train:  # the template checks for an epoch above N, counted from 0, and after taking its data: N + 2
        values["fast_epochs"] = typed.get("fast_train_epoch", 5) + 2
    elif "fast_train_epoch" in typed:
        notes.append(no_effect("fast_train_epoch", flags.fast_train_epoch, "--fast_train is not given"))
    values |= {key: typed[name] for name, key in RENAMED.items() if name in typed}
    return values, notes


def tester_overrides(flags: LabFlags) -> tuple[dict[str, Any], list[str]]:
    """The same for Tester.py, where only the model's widths and the frame size matter."""
    typed = given(flags)
    values = {RENAMED[name]: typed[name] for name in TESTING if name in typed and name in RENAMED}
    notes = [
        no_effect(name, value, NO_EFFECT.get(name, "it belongs to training"))
        for name, value in typed.items()
        if name not in TESTING
    ]
    return values, notes


def for_bare_weights(flags: LabFlags) -> list[str]:
    """The typed flags for what a run knows about itself and a bare checkpoint does not."""
    return [f"--{name} {value}" for name, value in given(flags).items() if name in TESTING & RENAMED.keys()]


def _choice(name: str, value: str, known: dict[str, str]) -> str:
    if value.lower() not in known:
        raise unknown(f"--{name}", value, known)
    return known[value.lower()]


def local_path(text: str | None) -> str | None:
    r"""A path as typed; one written for Windows (`LAB4_template\checkpoints`) is converted when only that exists."""
    if text and "\\" in text and not Path(text).exists() and Path(text.replace("\\", "/")).exists():
        return text.replace("\\", "/")
    return text


def find_checkpoint(text: str) -> tuple[Path, str | None]:
    """(a run's folder or a checkpoint file, a line to show or None) that --ckpt and --ckpt_path mean.

    A folder that is not a run means the newest run or *.ckpt in it. A `save_root/epoch=99.ckpt` that does not exist
    means the newest run under save_root, which is what `lab4 train --save_root` writes instead.
    Raises `Lab4Error` if there is neither.
    """
    path = Path(local_path(text)).expanduser()
    if path.is_file() and path.name in ("best.pt", "last.pt", "previous.pt"):  # a file of a run
        other = f"{text}: taking {path.parent / 'best.pt'}, the run's result" if path.name != "best.pt" else None
        return path.parent, other
    if path.is_file() or (path / "config.json").is_file():
        return path, None
    folder = path if path.is_dir() else path.parent
    candidates = [run.parent for run in folder.glob("*/config.json")] if folder.is_dir() else []
    if path.is_dir():
        candidates += folder.glob("*.ckpt")
    if not candidates:
        raise Lab4Error(f"no checkpoint at {text}: expected a .ckpt file, a run's folder, or a folder with one of them")
    newest = max(candidates, key=_written)
    return newest, f"{text}: taking {newest}, the newest there"


def _written(candidate: Path) -> float:
    """When a checkpoint or the weights of a run were written; a run without weights comes last."""
    file = candidate / "best.pt" if candidate.is_dir() else candidate
    return file.stat().st_mtime if file.is_file() else 0.0
