"""The command `lab4`. Each sub-command is a dataclass: its fields are the options, `main` is what it does.

torch, matplotlib and nbconvert are imported inside `main`, so that `--help` is immediate.
"""

from __future__ import annotations

import importlib.util
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
from lab4_core.options import ConfigFlags, File, Folder, Number, Sets, TestFlags, Text, TrainFlags, Whole
from lab4_core.presets import PRESETS, PROFILES, load_config


@dataclass(kw_only=True)
class Common:
    data: Folder = None
    """dataset in the LAB4 layout; else $LAB4_DATA, else the synthetic dancer"""
    out: Folder = None
    """where the results go; else $LAB4_RUNS, else runs/ of the checkout"""
    profile: options.one_of(PROFILES) = None
    """amount of work: smoke (a minute), demo (minutes), full (as the preset says); demo unless the length of the
    training is given"""
    preset: options.one_of(PRESETS) = None
    """recipe, the model and how it is trained: compact is for two CPU cores, lab is the lab's own; compact unless a
    flag of the lab is given"""
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
        return {
            "preset": self.preset or ("lab" if lab else "compact"),
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
        lab_values, notes = lab_flags.lab_overrides(flags)
        overrides = layer(lab_values, options.typed(self.config), self.own(), options.set_overrides(self.sets))
        recipe = self.recipe(overrides, lab=bool(lab_flags.given(flags)))
        root = options.dataset_root(options.either("--data", self.data, "--DR", flags.DR))
        try:
            return load_config(**recipe, data=root, overrides=overrides), notes
        except Lab4Error as e:
            lists = [text for text in self.sets if "," in text]
            if lists:
                raise Lab4Error(f"{e} (to try several values: lab4 sweep --set {' --set '.join(lists)})") from e
            raise

    def flags(self) -> LabFlags:
        return LabFlags(**vars(self.lab))

    def main(self) -> None:
        flags = self.flags()
        cfg, notes = self.configuration()
        out = options.either("--out", self.out, "--save_root", flags.save_root)
        ckpt = options.either("--ckpt", flags.ckpt, "--ckpt_path", flags.ckpt_path)
        loggers = tuple(dict.fromkeys(self.logger))
        if flags.use_wandb and importlib.util.find_spec("wandb"):
            loggers = tuple(dict.fromkeys((*loggers, "wandb")))
        elif flags.use_wandb:
            notes.append("--use_wandb has no effect: wandb is not installed, pip install 'lab4[wandb]' adds it")
        if flags.test and not ckpt:
            raise Lab4Error("--test needs --ckpt FILE: it evaluates a checkpoint on val")
        if ckpt and not flags.test:
            raise Lab4Error(
                f"--ckpt {ckpt}: training does not start from a checkpoint; an interrupted run goes on by itself "
                "when its command is repeated, and --test evaluates a checkpoint on val"
            )
        note(*notes)
        if flags.test:
            root = options.either("--data", self.data, "--DR", flags.DR)
            run = open_run(ckpt, out, root, {k: cfg.to_dict()[k] for k in ("model", "data", "eval_frames")})
            result = score(run, root, device=cfg.device)
            print_score(result)
        else:
            from lab4_core.engine import train

            run = train(cfg, out=out, resume=self.resume, loggers=loggers)
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
    split: Literal["val", "train"] = "val"
    """the clips to score; test clips have no ground truth"""
    samples: Whole = None
    """rollouts with different z averaged per clip; else as the run says"""
    data: Folder = None
    """another dataset than the run's own, in the LAB4 layout"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto"""

    def main(self) -> None:
        run = open_run(self.run, None, self.data, {})
        print_score(score(run, self.data, self.split, self.samples, self.device))


@dataclass(kw_only=True)
class Test:
    """Predict the test clips: submission.csv as the lab hands it in, a GIF and a film strip of each clip."""

    run: Annotated[Positional[str | None], arg(metavar="RUN", help_behavior_hint="")] = None
    """a run's folder, a folder with runs in it (the newest is taken), or a checkpoint of the lab"""
    data: Folder = None
    """dataset in the LAB4 layout; else the run's own"""
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
        ckpt = options.either(
            "RUN", self.run, "--ckpt", options.either("--ckpt", flags.ckpt, "--ckpt_path", flags.ckpt_path)
        )
        out = options.either("--out", self.out, "--save_root", flags.save_root)
        root = options.either("--data", self.data, "--DR", flags.DR)
        if not ckpt:
            raise Lab4Error("nothing to test: expected a RUN, or --ckpt FILE")
        note(*notes)
        run = open_run(ckpt, None, root, values)

        from lab4_core.inference import test

        for path in test(run, dataset_for(run, root), out=out, seed=self.seed, device=self.device):
            print(path)


@dataclass(kw_only=True)
class Report(Common):
    """Run the report's notebooks and write it as one HTML page, whose path is printed last."""

    def main(self) -> None:
        from lab4_core.report import make_report

        overrides = layer(self.own(), options.set_overrides(self.sets))
        print(
            make_report(
                **self.recipe(overrides), data=options.dataset_root(self.data), out=self.out, overrides=overrides
            )
        )


@dataclass(kw_only=True)
class Sweep(Common):
    """Run a grid of configurations, each as notebook 06 in a process of its own; started again, it runs only what
    is missing. The path of the table is printed last; a failed point is a row with its reason."""

    engine: Literal["local", "ray", "slurm"] = "local"
    """processes here, Ray tasks, or Slurm jobs (through submitit)"""
    slots: int = 0
    """points at the same time, each with its share of the cores; 0 is one for every two cores"""
    file: File = None
    """YAML: a mapping of keys to lists of values is a grid, a list is a list of points; --set crosses it"""
    address: Text = None
    """ray: address of a cluster; else one is started here"""
    cluster: Text = None
    """slurm: "local" runs submitit's stand-in for a cluster on this machine"""
    partition: Text = None
    """slurm: partition of the jobs"""
    timeout_min: int = 240
    """slurm: minutes after which a job is ended"""

    def points(self) -> list[dict[str, Any]]:
        from lab4_core.sweep import expand, read_file

        axes = {key: options.parse_axis(value) for key, value in options.parse_sets(self.sets).items()}
        points = read_file(self.file) if self.file else [{}]
        return [point for a in points for b in expand(axes) if (point := {**a, **b})]

    def main(self) -> int:
        from lab4_core.paths import runs_dir
        from lab4_core.sweep import run_sweep

        points, own = self.points(), self.own()
        recipe = self.recipe({**own, **(points[0] if points else {})})
        data = options.dataset_root(self.data)
        check_points(points, own, recipe, data)
        common = {**recipe, "data": data or "", **{k: own.pop(k) for k in ("seed", "minutes") if k in own}}
        out = Path(self.out or runs_dir() / "sweep")
        engine = {k: getattr(self, k) for k in ("address", "cluster", "partition", "timeout_min")}
        rows = run_sweep(points, out, {**common, "overrides": own}, self.engine, self.slots, options=engine)
        failed = sum(row["status"] != "finished" for row in rows)
        if failed:
            note(f"{failed} of {len(rows)} points did not finish; the same command runs these again")
        print(out / "sweep.csv")
        return 1 if failed else 0


@dataclass(kw_only=True)
class Data:
    """Write the synthetic dancer as a dataset in the LAB4 layout and print its folder."""

    out: str
    """a new folder"""
    clips: int = 4
    """training clips"""
    frames: int = 630
    """frames of a clip"""
    test_clips: int = 2
    """test clips"""
    seed: int = 0
    """another seed is other motion and other film noise"""
    size: str = "64x32"
    """width x height of the pictures, pixels"""

    def main(self) -> None:
        from lab4_core.data import Dancer, write_lab4

        width, x, height = self.size.partition("x")
        if not (x and width.isdigit() and height.isdigit()):
            raise Lab4Error(f"--size {self.size}: expected WIDTHxHEIGHT in pixels, as in 64x32")
        dancer = Dancer(clips=self.clips, frames=self.frames, test_clips=self.test_clips, seed=self.seed,
                        width=int(width), height=int(height))  # fmt: skip
        print(write_lab4(dancer.load(), self.out))


@dataclass(kw_only=True)
class Import:
    """Take a published checkpoint of the lab as a run, for evaluate, test and the notebooks."""

    ckpt: Annotated[Positional[str], arg(metavar="CKPT")]
    """its .ckpt file: {"state_dict": ...} or the bare weights"""
    out: Folder = None
    """folder for the run; else $LAB4_RUNS, else runs/ of the checkout"""
    norm: Literal["image", "running"] = "image"
    """BatchNorm of the poses: by each image's own statistics, as the lab's template trains and tests, or by the
    running averages"""
    sets: Sets = ()
    """other values of the model, as model.f_dim=64"""

    def main(self) -> None:
        from lab4_core.inference import import_checkpoint

        overrides = {"model.norm": self.norm, **options.set_overrides(self.sets)}
        print(import_checkpoint(lab_flags.local_path(self.ckpt), self.out, overrides).dir)


@dataclass(kw_only=True)
class Bench:
    """Measure training steps, rollouts and what they are made of on this machine."""

    json: File = None
    """also write the measurements to this file"""
    quick: bool = False
    """fewer repeats"""

    def main(self) -> None:
        from lab4_core.bench import run_bench

        run_bench(json_path=self.json, quick=self.quick)


COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "test": Test,
    "report": Report,
    "sweep": Sweep,
    "data": Data,
    "import": Import,
    "bench": Bench,
}

# ----------------------------------------------------------------------------------- what they share


def note(*lines: str) -> None:
    for line in lines:
        print(f"lab4: note: {line}", file=sys.stderr)


def open_run(text: str, out: str | None, root: str | None, overrides: Mapping[str, Any]) -> Any:
    """The run that a path means. A checkpoint of the lab becomes one under `out`, of the dataset at `root` and with
    these overrides."""
    from lab4_core.inference import import_checkpoint, load_run

    path, line = lab_flags.find_checkpoint(text)
    note(*filter(None, [line]))
    if path.is_dir():
        return load_run(path)
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
    return load_data(build("data", {"kind": "lab4", "root": options.dataset_root(root), **size}))


def score(run: Any, root: str | None, split: str = "val", samples: int | None = None, device: str = "auto") -> Any:
    from lab4_core.inference import evaluate

    return evaluate(run, split=split, n_samples=samples, data=dataset_for(run, root), device=device)


def print_score(score: Any) -> None:
    """The model beside its baselines, and how they were measured."""
    rows = {"this run": {"psnr": score.psnr, "ssim": score.ssim}, **score.baselines}
    print(f"{'':16}{'PSNR (dB)':>10}{'SSIM':>8}{'worst frame (dB)':>18}")
    for name, values in rows.items():
        psnr, ssim = values["psnr"], values["ssim"]
        print(f"{name.replace('_', ' '):16}{psnr.mean():10.2f}{ssim.mean():8.3f}{psnr.min():18.2f}")
    print("copy previous knows the true previous frame: a yardstick, no prediction")
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


def parse(argv: Sequence[str] | None = None) -> Any:
    """The command of a command line. tyro prints its own error for a wrong one and exits with 2."""
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="lab4",
        description="Conditional VAEs that predict video: train, score and roll out.",
        args=argv,
        use_underscores=True,
        config=(FlagCreatePairsOff,),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (a sweep with failed points), 2 (an error), 130 (Ctrl-C)."""
    command = parse(argv)
    try:
        return command.main() or 0
    except Lab4Error as e:
        if os.environ.get("LAB4_DEBUG") == "1":
            raise
        print(f"lab4: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lab4: stopped; the same command goes on where it was", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
