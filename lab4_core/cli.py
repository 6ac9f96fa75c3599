"""The command `lab4`. Each sub-command is a dataclass: its fields are the options, `main` is what it does.

torch, matplotlib and nbconvert are imported inside `main`, so that `--help` is immediate.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, UseAppendAction, arg

from lab4_core import lab_flags, options
from lab4_core.config import Config, layer
from lab4_core.errors import Lab4Error
from lab4_core.lab_flags import LabFlags, TesterFlags
from lab4_core.options import ConfigFlags, File, Files, Folder, Number, Sets, TestFlags, Text, TrainFlags, Whole
from lab4_core.paths import write_text
from lab4_core.presets import PRESETS, PROFILES, SOURCES, load_config, source


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


@dataclass(kw_only=True)
class Train(Common):
    """Train a run, or go on with it, and print its folder last. A finished run is not trained again."""

    resume: Literal["auto", "never"] = "auto"
    """auto goes on from the last checkpoint, never begins anew"""
    logger: UseAppendAction[tuple[Literal["tensorboard", "wandb"], ...]] = ()
    """also log to TensorBoard or Weights & Biases (offline), where installed"""
    config: OmitArgPrefixes[ConfigFlags] = field(default_factory=ConfigFlags)
    lab: OmitArgPrefixes[TrainFlags] = field(default_factory=TrainFlags)

    def configuration(self) -> tuple[Config, list[str]]:
        """The run that is meant, and the lines on flags without an effect."""
        flags = self.flags()
        lab_values, notes = lab_flags.lab_overrides(flags, self.config.n_past, self.preset)
        typed = options.typed(self.config), self.own(), options.set_overrides(self.sets)
        asked = {k: v for values in typed for k, v in values.items()}
        if all(asked.get(k) is not None for k in ("steps", "minutes")):  # in layers the later one would win unseen
            raise Lab4Error(f"steps = {asked['steps']}, minutes = {asked['minutes']}: expected at most one of them")
        overrides = layer(lab_values, *typed)
        recipe = self.recipe(overrides, lab=bool(lab_flags.given(flags)))
        root = lab_flags.local_path(lab_flags.data_root(self.data, flags))
        try:
            return load_config(**recipe, data=root, overrides=overrides), notes
        except Lab4Error as e:
            lists = [f"{k}={v}" for k, v in options.parse_sets(self.sets).items() if len(options.parse_axis(v)) > 1]
            if lists:
                raise Lab4Error(f"{e} (to try several values: lab4 sweep --set {' --set '.join(lists)})") from e
            raise

    def flags(self) -> LabFlags:
        return LabFlags(**vars(self.lab))

    def main(self) -> None:
        flags = self.flags()
        cfg, notes = self.configuration()
        out = lab_flags.out_folder(self.out, flags)
        ckpt = lab_flags.either("--ckpt", flags.ckpt, "--ckpt_path", flags.ckpt_path)
        loggers = tuple(dict.fromkeys(self.logger))
        if flags.use_wandb and importlib.util.find_spec("wandb"):
            loggers = tuple(dict.fromkeys((*loggers, "wandb")))
        elif flags.use_wandb:
            notes.append("--use_wandb has no effect: wandb is not installed, pip install 'lab4[wandb]' adds it")
        if flags.test and not ckpt:
            raise Lab4Error("--test needs --ckpt FILE: it evaluates a checkpoint on val")
        if ckpt and not flags.test:
            raise Lab4Error(
                f"--ckpt {ckpt}: an interrupted run goes on by itself when its command is repeated, and --test "
                "evaluates a checkpoint on val; to begin with what another run has learnt, lab4 export it (a .ckpt "
                'after lab4 import) and add the strategy {"kind": "warm_start", "weights": "FILE.safetensors"}'
            )
        note(*notes)
        if flags.test:
            root = lab_flags.data_root(self.data, flags)
            values = {k: cfg.to_dict()[k] for k in ("model", "data", "eval_frames")}
            run = open_run(ckpt, out, root, values, lab_flags.for_bare_weights(flags))
            result = score(run, root, device=cfg.device, frames=flags.val_vi_len)
            print_score(result)
        else:
            from lab4_core.distributed import leads
            from lab4_core.engine import train

            run = train(cfg, out=out, resume=self.resume, loggers=loggers)
            if not leads():  # of the processes of torchrun the first one speaks
                return
            if run.result.get("status") == "partial":
                raise KeyboardInterrupt
            result = run.scores()
        draw(run, result, loss=flags.plot_training_loss and not flags.test, psnr=flags.plot_psnr or flags.test)
        print(run.dir)


@dataclass(kw_only=True)
class Evaluate:
    """Score a run: PSNR and SSIM of free-running prediction, z drawn from N(0, I), beside its baselines."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """a run's folder, a folder with runs in it (the newest is taken), or a checkpoint of the lab"""
    split: Literal["val", "train", "test"] = "val"
    """the clips to score; the lab's pose test clips have no ground truth, those of robot pushing have"""
    samples: Whole = None
    """rollouts with different z per clip: their mean, and the best one beside it; else as the run says"""
    frames: Whole = None
    """frames of a clip, the given ones included, as 30 for 2 -> 28; else as the run says"""
    single: bool = False
    """of each clip one rollout, where a strategy of the run (averaged_views) would average several"""
    data: Folder = None
    """another dataset than the run's own: in the LAB4 layout, for the svg model in the BAIR layout"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto"""
    lpips: Files = ()
    """weights for LPIPS too: the linear layers that the package lpips publishes and, in a second --lpips, torchvision's
    alexnet or vgg16. Nothing is downloaded"""
    fvd: File = None
    """weights for FVD too, of I3D or of torchvision's r3d_18. Nothing is downloaded"""
    json: File = None
    """also write the numbers and their protocol to this file"""

    def main(self) -> None:
        run = open_run(self.run, None, self.data, {})
        more = {"lpips": self.lpips, "fvd": self.fvd, "single": self.single}
        result = score(run, self.data, self.split, self.samples, self.device, self.frames, **more)
        print_score(result)
        if self.json:
            write_text(self.json, json.dumps(result.summary(), indent=1) + "\n")


@dataclass(kw_only=True)
class Test:
    """Predict the test clips: submission.csv as the lab hands it in, a GIF and a film strip of each clip. For robot
    pushing, where the truth is known, psnr.csv with the dB of every frame in the stead of the submission."""

    run: Annotated[Positional[str | None], arg(metavar="RUN", help_behavior_hint="")] = None
    """a run's folder, a folder with runs in it (the newest is taken), or a checkpoint of the lab"""
    data: Folder = None
    """dataset in the LAB4 layout, for the svg model in the BAIR layout; else the run's own"""
    out: Folder = None
    """folder for the files; else test/ in the run"""
    seed: int = 0
    """seed of z"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto"""
    lab: OmitArgPrefixes[TestFlags] = field(default_factory=TestFlags)

    def main(self) -> None:
        flags = TesterFlags(**vars(self.lab))
        values, notes = lab_flags.tester_overrides(flags)
        ckpt = lab_flags.either(
            "RUN", self.run, "--ckpt", lab_flags.either("--ckpt", flags.ckpt, "--ckpt_path", flags.ckpt_path)
        )
        out = lab_flags.out_folder(self.out, flags)
        root = lab_flags.data_root(self.data, flags)
        if not ckpt:
            raise Lab4Error("nothing to test: expected a RUN, or --ckpt FILE")
        note(*notes)
        run = open_run(ckpt, None, root, values, lab_flags.for_bare_weights(flags))

        from lab4_core.inference import test

        for path in test(run, dataset_for(run, root), out=out, seed=self.seed, device=self.device):
            print(path)


@dataclass(kw_only=True)
class Report(Common):
    """Run the report's notebooks and write it as one HTML page, whose path is printed last."""

    def main(self) -> None:
        from lab4_core.report import make_report

        overrides = layer(self.own(), options.set_overrides(self.sets))
        recipe = self.recipe(overrides)
        print(make_report(**recipe, data=lab_flags.local_path(self.data), out=self.out, overrides=overrides))


@dataclass(kw_only=True)
class Sweep(Common):
    """Run a grid of configurations, each as notebook 06 in a process of its own; started again, it runs only what
    is missing. The path of the table is printed last; a failed point is a row with its reason."""

    engine: Literal["local", "ray", "slurm"] = "local"
    """processes here, Ray tasks, or Slurm jobs (through submitit)"""
    slots: int = 0
    """points at the same time, each with its share of the cores; 0 is one for every core"""
    file: File = None
    """YAML: a mapping of keys to lists of values is a grid, a list is a list of points, a claim is one with its levels
    and seeds; --set crosses it"""
    gpus: int = 0
    """GPUs that each point has for itself; 0 reserves none"""
    address: Text = None
    """ray: address of a cluster; else one is started here"""
    cluster: Text = None
    """slurm: "local" runs submitit's stand-in for a cluster on this machine"""
    partition: Text = None
    """slurm: partition of the jobs"""
    timeout_min: int = 0
    """minutes after which a point is ended and counts as failed; 0 is 4 hours on Slurm and a day elsewhere"""
    show: bool = False
    """draw curves and moving pictures into the notebook of every point, for which it takes longer"""

    def points(self) -> list[dict[str, Any]]:
        from lab4_core.claims import points_of
        from lab4_core.sweep import expand

        axes = {key: options.parse_axis(value) for key, value in options.parse_sets(self.sets).items()}
        points = points_of(self.file) if self.file else [{}]
        return [point for a in points for b in expand(axes) if (point := {**a, **b})]

    def main(self) -> int:
        from lab4_core.paths import runs_dir
        from lab4_core.sweep import run_sweep

        points, own = self.points(), self.own()
        recipe = self.recipe({**own, **(points[0] if points else {})})
        named = any({"data", "data.kind"} & point.keys() for point in points)  # then no variable says where they lie
        data = options.dataset_root(self.data, "" if named else source(recipe["preset"], own)[0])
        check_points(points, own, recipe, data)
        common = {**recipe, "data": data or "", **{k: own.pop(k) for k in ("seed", "minutes") if k in own}}
        out = Path(self.out or runs_dir() / "sweep")
        engine = {k: getattr(self, k) for k in ("address", "cluster", "partition", "timeout_min", "gpus")}
        rows = run_sweep(
            points, out, {**common, "overrides": own}, self.engine, self.slots, options=engine, show=self.show
        )
        failed = sum(row["status"] != "finished" for row in rows)
        if failed:
            note(f"{failed} of {len(rows)} points did not finish; the same command runs these again")
        print(out / "sweep.csv")
        return 1 if failed else 0


@dataclass(kw_only=True)
class Claims:
    """Judge claims of the reports by what was measured: the effect in dB with its 95 % interval over paired seeds, and
    a verdict. With --run the missing points are measured first."""

    files: Positional[tuple[str, ...]] = ()
    """claims as YAML; else all of notebooks/sweeps"""
    run: bool = False
    """run what is missing, as one sweep; stopped and started again, it goes on"""
    out: Folder = None
    """folder of that sweep: what it has measured is taken over into results/ beside the claims; else
    $LAB4_RUNS/claims-dancer (claims-lab4) with --run, and nothing new is taken over without"""
    data: Folder = None
    """dataset in the LAB4 layout; else $LAB4_DATA, else the synthetic dancer"""
    engine: Literal["local", "ray", "slurm"] = "local"
    """as of lab4 sweep"""
    slots: int = 0
    """points at the same time; 0 is one for every core"""
    markdown: bool = False
    """print the claims as the table of the README"""

    def main(self) -> None:
        from lab4_core import claims, findings
        from lab4_core.paths import runs_dir
        from lab4_core.runlog import read_json
        from lab4_core.sweep import run_sweep

        chosen = [(claims.read_claim(f), Path(f).parent) for f in self.files]
        chosen = chosen or [(claim, claims.FOLDER) for claim in claims.all_claims()]
        root = options.dataset_root(self.data)
        data = "lab4" if root else "dancer"
        out = Path(self.out or runs_dir() / f"claims-{data}")
        if self.out and not self.run:
            if not (out / "sweep.csv").is_file():
                raise Lab4Error(
                    f"claims --out {out}: no sweep.csv in it; expected the folder of a sweep, or --run beside it"
                )
            if (asked := out / "sweep.json").is_file():  # whose results they are
                data = "lab4" if (read_json(asked).get("common") or {}).get("data") else "dancer"
        if self.run:
            points = claims.points_of_all([claim for claim, _ in chosen])
            run_sweep(points, out, {"data": root or ""}, self.engine, self.slots)
        if self.run or self.out:
            rows = findings.read_table(out / "sweep.csv")
            for claim, folder in chosen:
                findings.write_results(claim, rows, folder, data)
        if self.markdown:
            from lab4_core.plots.results import Table

            rows = [row for claim, folder in chosen for row in findings.finding_rows([claim], folder)]
            print(Table(rows, findings.FINDINGS).to_markdown(), end="")
            return
        for claim, folder in chosen:
            judged = findings.judged_on_all(claim, folder)
            for name in dict.fromkeys(row["data"] for row in judged):
                own = [row for row in judged if row["data"] == name]
                print(f"{claim.name}, {name}: {claims.overall(own)} ({claim.claim}; {claim.source})")
                for row in own:
                    print("   ", claims.sentence(row))


@dataclass(kw_only=True)
class Data:
    """Write a synthetic dataset, the dancer in the LAB4 layout or the robot in the BAIR layout, and print its folder;
    or convert the BAIR release."""

    out: str
    """a new folder"""
    kind: Literal["dancer", "robot"] = "dancer"
    """which dataset"""
    clips: Whole = None
    """training clips (dancer 4, robot 64)"""
    frames: Whole = None
    """frames of a clip (dancer 630, robot 30)"""
    test_clips: Whole = None
    """test clips (dancer 2, robot 4)"""
    seed: int = 0
    """another seed is other motion and other film noise"""
    size: Text = None
    """width x height of the pictures, pixels (dancer 64x32, robot 64x64)"""
    from_tfrecord: Folder = None
    """convert the BAIR release's TFRecords in this folder instead, as they are"""

    def main(self) -> None:
        from lab4_core.data import convert_tfrecords, write_bair, write_lab4
        from lab4_core.data.lab4_write import check_new
        from lab4_core.registry import build

        if self.from_tfrecord:
            print(convert_tfrecords(self.from_tfrecord, self.out))
            return
        values = {k: getattr(self, k) for k in ("clips", "frames", "test_clips") if getattr(self, k) is not None}
        if self.size:
            width, x, height = self.size.partition("x")
            if not (x and width.isdecimal() and height.isdecimal()):
                raise Lab4Error(f"--size {self.size}: expected WIDTHxHEIGHT in pixels, as in 64x32")
            values |= {"width": int(width), "height": int(height)}
        dataset = build("data", {"kind": self.kind, "seed": self.seed, **values})
        check_new(self.out)  # ahead of the work
        print((write_bair if self.kind == "robot" else write_lab4)(dataset.load(), self.out))


@dataclass(kw_only=True)
class Export:
    """Write the best weights of a run, with its configuration and score, into one safetensors file."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """a run's folder"""
    file: Annotated[Positional[str], arg(metavar="FILE")]
    """the file, NAME.safetensors; `lab4 import` makes a run of it again"""

    def main(self) -> None:
        from lab4_core.inference import load_run
        from lab4_core.weights import export_weights

        print(export_weights(load_run(self.run), lab_flags.local_path(self.file)))


@dataclass(kw_only=True)
class Import:
    """Take an exported file or a published checkpoint of the lab as a run, for evaluate, test and the notebooks."""

    ckpt: Annotated[Positional[str], arg(metavar="CKPT")]
    """a .safetensors file of `lab4 export`, or the lab's .ckpt file: {"state_dict": ...} or the bare weights"""
    out: Folder = None
    """folder for the run; else $LAB4_RUNS, else runs/ of the checkout"""
    norm: options.one_of(["image", "running"]) = None
    """BatchNorm of the poses: by each image's own statistics, as the lab's template trains and tests (image, the
    default), or by the running averages"""
    sets: Sets = ()
    """other values of the model, as model.f_dim=64"""

    def main(self) -> None:
        from lab4_core.inference import import_checkpoint

        if self.ckpt.endswith(".safetensors"):
            from lab4_core.weights import pretrained

            if self.sets or self.norm:
                raise Lab4Error(
                    f"import {self.ckpt}: an exported file knows its configuration; expected no --set and no --norm"
                )
            print(pretrained(lab_flags.local_path(self.ckpt), self.out).dir)
            return
        norm = {"model.norm": self.norm} if self.norm else {}
        overrides = {**norm, **options.set_overrides(self.sets)}
        print(import_checkpoint(lab_flags.local_path(self.ckpt), self.out, overrides).dir)


@dataclass(kw_only=True)
class Soup:
    """Average the weights of runs that began with the same weights into one run, for evaluate and test."""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN...")]
    """two runs' folders or more, of one model"""
    out: Folder = None
    """folder for the run; else $LAB4_RUNS, else runs/ of the checkout"""

    def main(self) -> None:
        from lab4_core.inference import load_run
        from lab4_core.soups import soup

        print(soup([load_run(folder) for folder in self.runs], self.out).dir)


@dataclass(kw_only=True)
class Bench:
    """Measure training steps, rollouts and what they are made of on this machine."""

    json: File = None
    """also write the measurements to this file"""
    quick: bool = False
    """fewer repeats"""
    quality: float | None = None
    """instead: train best, compact and lab for so many minutes each, and score their rollouts on the way"""
    lab_times: float = 0.0
    """with --quality: give lab so many times the minutes that best needed to 30 dB, where that is more"""
    data: Folder = None
    """with --quality: root of the dataset, as for train"""
    out: Folder = None
    """with --quality: folder for the runs, as for train"""
    sets: Sets = ()
    """with --quality: a field of every preset, such as hold_out=0"""

    def main(self) -> None:
        if self.quality is not None:
            from lab4_core.quality import in_words, time_to_quality

            found = time_to_quality(self.quality, self.data, self.out, json_path=self.json, lab_times=self.lab_times,
                                    overrides=options.set_overrides(self.sets))  # fmt: skip
            print(*in_words(found), sep="\n")
            return
        unused = {"--lab_times": self.lab_times, "--data": self.data, "--out": self.out, "--set": self.sets}
        if any(unused.values()):
            given = ", ".join(name for name, value in unused.items() if value)
            raise Lab4Error(f"bench {given}: expected --quality MINUTES beside it")
        from lab4_core.bench import run_bench

        run_bench(json_path=self.json, quick=self.quick)


@dataclass(kw_only=True)
class StudentEdition:
    """Write the notebooks with their solutions as TODOs, or check what is still to be written in them."""

    out: Folder = None
    """a new or empty folder for the student's notebooks"""
    check: Folder = None
    """a student's folder: what is missing in each of its notebooks; exits with 1 while something is"""

    def main(self) -> int:
        from lab4_core.student_edition import build_edition, check_edition

        if bool(self.out) == bool(self.check):
            raise Lab4Error("student-edition: expected either --out DIR or --check DIR")
        if self.out:
            build_edition(self.out)
            print(self.out)
            return 0
        findings = check_edition(self.check)
        print("\n".join(map(str, findings)))
        return 0 if all(finding.done for finding in findings) else 1


COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "test": Test,
    "report": Report,
    "sweep": Sweep,
    "claims": Claims,
    "data": Data,
    "export": Export,
    "import": Import,
    "soup": Soup,
    "bench": Bench,
    "student-edition": StudentEdition,
}

# ----------------------------------------------------------------------------------- what they share


def note(*lines: str) -> None:
    for line in lines:
        print(f"lab4: note: {line}", file=sys.stderr)


def open_run(
    text: str, out: str | None, root: str | None, overrides: Mapping[str, Any], flags: Sequence[str] = ()
) -> Any:
    """The run that a path means. An exported file becomes one under `out`; so does a checkpoint of the lab, of the
    dataset at `root` and with these overrides. flags: the typed ones that only mean something for the latter."""
    from lab4_core.inference import import_checkpoint, load_run

    path, line = lab_flags.find_checkpoint(text)
    note(*filter(None, [line]))
    if path.is_dir() or path.suffix == ".safetensors":
        note(*(f"{flag} has no effect: {path.name} knows its own model and frame size" for flag in flags))
    if path.is_dir():
        return load_run(path)
    if path.suffix == ".safetensors":
        from lab4_core.weights import pretrained

        return pretrained(path, out)
    folder = options.dataset_root(root)
    data = {"data": "lab4", "data.root": folder} if folder else {}
    return import_checkpoint(path, out, layer(data, overrides))


def dataset_for(run: Any, root: str | None) -> Any:
    """The dataset in a folder at the frame size of the run's own; None where no folder is named: the run's own."""
    from lab4_core.data import load_data
    from lab4_core.registry import build

    if not root:
        return None
    size = {k: v for k in ("height", "width") if (v := getattr(run.config.data, k, None))}
    kind = run.config.data.kind if hasattr(run.config.data, "root") else SOURCES[run.config.model.conditions][1]
    return load_data(build("data", {"kind": kind, "root": options.dataset_root(root), **size}))


def score(
    run: Any,
    root: str | None,
    split: str = "val",
    samples: int | None = None,
    device: str = "auto",
    frames: int | None = None,
    **more: Any,
) -> Any:
    from lab4_core.inference import evaluate

    data = dataset_for(run, root)
    return evaluate(run, split=split, n_samples=samples, data=data, device=device, frames=frames, **more)


def print_score(score: Any) -> None:
    """The model beside its baselines, and how they were measured."""
    from lab4_core.scores import MEASURES

    means = score.means
    rows = {"this run": means.pop("this model"), **means}
    shown = {k: v for k, v in MEASURES.items() if k in rows["this run"]}
    print(f"{'':16}" + "".join(f"{title:>11}" for title, _ in shown.values()) + "  worst frame (dB)")
    for name, values in rows.items():
        cells = "".join(f"{format(values[k], f) if k in values else '-':>11}" for k, (_, f) in shown.items())
        worst = score.rows.get(name, score.rows["this model"])["psnr"].min()
        print(f"{name.replace('_', ' '):16}{cells}{worst:18.2f}")
    print("copy previous knows the true previous frame: a yardstick, no prediction")
    if score.drift:
        print(f"drift: {score.drift_text}")
    for key, value in score.protocol.items():
        print(f"{key}: {value}")


def draw(run: Any, result: Any, loss: bool, psnr: bool) -> None:
    """The pictures that --plot_training_loss and --plot_psnr ask for, in the run's folder."""
    if not (loss or psnr):
        return
    from lab4_core import plots
    from lab4_core.paths import replacing

    figures = {"training_loss.png": lambda: plots.plot_training([run])} if loss else {}
    if psnr:
        n_past = run.config.n_past
        figures["psnr_per_frame.png"] = lambda: plots.plot_psnr_per_frame({run.name: result}, n_past=n_past)
    for name, figure in figures.items():
        with replacing(run.dir / "figures" / name) as temporary:
            figure().savefig(temporary, dpi=110)
        print(run.dir / "figures" / name)


def check_points(
    points: Sequence[Mapping[str, Any]], own: Mapping[str, Any], recipe: Mapping[str, str], data: str | None
) -> None:
    """A sweep in which no point can run is a mistake in its command: raise the first point's error at once."""
    for i, point in enumerate(points):
        keys = {"preset", "profile"}
        overrides = layer(own, {k: v for k, v in point.items() if k not in keys})
        try:
            load_config(**{**recipe, **{k: v for k, v in point.items() if k in keys}}, data=data, overrides=overrides)
            return
        except Lab4Error as e:
            error = e if i == 0 else error  # noqa: F821 - bound by the first turn
    if points:
        raise error


def at_home(argument: str) -> str:
    """~/x and --out=~/x: most shells leave a ~ behind a = as it is."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + (os.path.expanduser(value) if value.split("/")[0] == "~" else value)


def parse(argv: Sequence[str] | None = None) -> Any:
    """The command of a command line. tyro prints its own error for a wrong one and exits with 2."""
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="lab4",
        description="Conditional VAEs that predict video: train, score and roll out.",
        args=[at_home(argument) for argument in (sys.argv[1:] if argv is None else argv)],
        use_underscores=True,
        config=(FlagCreatePairsOff,),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (a sweep with failed points), 2 (an error), 130 (Ctrl-C)."""
    command = None
    try:
        try:
            command = parse(argv)
        finally:  # --help and errors leave from there
            sys.stdout.flush()
        code = command.main() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read has seen enough, as `head` does; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Lab4Error as e:
        if os.environ.get("LAB4_DEBUG") == "1":
            raise
        print(f"lab4: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = isinstance(command, (Train, Report, Sweep, Claims)) or getattr(command, "quality", None)
        print(f"lab4: stopped{'; the same command goes on where it was' if goes_on else ''}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
