"""The command line: what each command means, what it prints, and that mistakes are one line and exit code 2."""

import dataclasses
import inspect
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lab4_core import cli, engine, paths
from lab4_core.cli.options import flags_of, parse_axis, parse_sets, set_overrides
from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.presets import PROFILES
from lab4_core.progress import Progress

TINY = "--set n_frames=3 --set eval_frames=6 --batch_size 1 --steps 2 --epochs 1 --device cpu"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny dataset in the LAB4 layout, `data`, and the run that `lab4 train` made of it."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", folder / "cache")
        assert cli.main(shlex.split(f"data --out {folder}/data --clips 1 --frames 12 --test_clips 1 --size 32x16")) == 0
        size = "--set data.height=16 --set data.width=32"
        assert cli.main(shlex.split(f"train --data {folder}/data --out {folder}/runs {TINY} {size}")) == 0
        (run,) = (folder / "runs").iterdir()
        yield SimpleNamespace(folder=folder, data=folder / "data", run=run, size=size)


def lab4(line, capsys):
    code = cli.main(shlex.split(line))
    said = capsys.readouterr()
    return code, said.out, said.err


def configuration(line):
    return cli.parse(shlex.split(line)).configuration()[0]


@pytest.mark.parametrize("line", ["--help", "train --help", "sweep --help"])
def test_help_imports_nothing_heavy(line):
    """Nor does importing the package and its presets: `--help` and a mistyped option are answered at once."""
    code = (
        "import sys, resource\nfrom lab4_core import cli\n"
        f"try: cli.main({line.split()})\nexcept SystemExit as e: assert e.code in (0, None)\n"
        "heavy = {'torch', 'matplotlib', 'nbconvert', 'papermill', 'imageio', 'pandas'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy), resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    env = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    heavy = out.splitlines()[-1]
    assert heavy.startswith("heavy: [] ")
    assert float(heavy.split()[-1]) < 1.5, "seconds of processor time"


def test_help_explains_units_and_defaults(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("clips in a batch (lab: 2)", "--minutes FLOAT", "--profile smoke|demo|full", "epochs (lab: 70)",
                  "--windows fixed|random", "teacher-forcing ratio at the start, 0 to 1 (lab: 1.0)"):  # fmt: skip
        assert words in text
    assert "None}" not in text and "default: None" not in text


def test_every_field_of_a_run_is_a_flag():
    flags = {f.name for f in dataclasses.fields(cli.Train().config)} | {"data", "model", "minutes", "seed"}
    assert flags == {f.name for f in dataclasses.fields(Config)}
    assert all(getattr(cli.Train().config, f.name) is None for f in dataclasses.fields(cli.Train().config))


def test_flags_of_follows_its_dataclass():
    @dataclasses.dataclass
    class Thing:
        """About things."""

        width: int = dataclasses.field(default=3, metadata={"help": "how wide, mm"})
        hidden: int = dataclasses.field(default=3, metadata={"help": "not shown"})

    Thing.__annotations__ = {"width": int, "hidden": int}
    flags = flags_of(Thing, without=("hidden",))
    assert [f.name for f in dataclasses.fields(flags)] == ["width"] and flags().width is None
    assert flags.__doc__ == "About things."


@pytest.mark.parametrize(("line", "expected"), [
    ("train", ("compact", "demo")),
    ("train --preset lab", ("lab", "demo")),
    ("train --epochs 3", ("compact", "full")),
    ("train --minutes 2", ("compact", "full")),
    ("train --set epochs=3", ("compact", "full")),
    ("train --epochs 3 --profile smoke", ("compact", "smoke")),
    ("train --tfr 0.5", ("lab", "full")),
    ("train --tfr 0.5 --preset compact --profile demo", ("compact", "demo")),
    ("train --batch_size 4", ("compact", "demo")),
])  # fmt: skip
def test_preset_and_profile(line, expected):
    cfg = configuration(line)
    steps = PROFILES[expected[1]].get("steps")
    assert (cfg.model.kind, cfg.steps) == (expected[0], steps)


def test_the_more_specific_option_wins():
    cfg = configuration("train --preset lab --annealing monotonic --set annealing.start=0.01 --seed 1 --set seed=2")
    assert (cfg.annealing.kind, cfg.annealing.start, cfg.seed) == ("monotonic", 0.01, 2)
    # a part named anew forgets what was said of the old one
    cfg = configuration("train --kl_anneal_type Cyclical --kl_anneal_cycle 4 --set annealing=monotonic")
    assert cfg.annealing.kind == "monotonic"
    cfg = configuration("train --profile smoke --minutes 3 --model lab --detach false --strategies ema,input_noise")
    assert (cfg.minutes, cfg.steps, cfg.model.kind, cfg.detach) == (3.0, None, "lab", False)
    assert [s.kind for s in cfg.strategies] == ["ema", "input_noise"]
    cfg = configuration('train --preset lab --set lr_schedule.milestones=3,9 --set \'loss={"kind": "elbo"}\'')
    assert cfg.lr_schedule.milestones == (3, 9) and cfg.loss.kind == "elbo"


def test_set_is_read_as_text_number_or_json():
    assert set_overrides(["a=1e-3", "b=x=y", "strategies=ema,input_noise", "c=NaN", "d=true", "e=2,5"]) == {
        "a": 1e-3, "b": "x=y", "strategies": ["ema", "input_noise"], "c": "NaN", "d": True, "e": "2,5"}  # fmt: skip
    assert parse_axis("cyclical,none") == ["cyclical", "none"] and parse_axis("0, 1,2.5") == [0, 1, 2.5]
    assert parse_axis('[["ema"], []]') == [["ema"], []] and parse_axis('{"kind": "adam"}') == [{"kind": "adam"}]
    for wrong in ("epochs", "=3"):
        with pytest.raises(Lab4Error, match="expected KEY=VALUE"):
            parse_sets([wrong])


@pytest.mark.parametrize(("line", "words"), [
    ("train --set anealing=none", "did you mean 'annealing'"),
    ("train --set annealing.cycels=4 --preset lab", "did you mean 'cycles'"),
    ("train --annealing cyclicl", "did you mean 'cyclical'"),
    ("train --set annealing=cyclical,none", "lab4 sweep --set annealing=cyclical,none"),
    ("train --set epochs=0", "epochs = 0: expected 1 or more"),
    ("train --steps 100 --minutes 1", "steps = 100, minutes = 1.0: expected at most one of them"),
    ("train --set steps=5 --minutes 1", "steps = 5, minutes = 1.0: expected at most one of them"),
    ("train --data nowhere", "nowhere"),
    ("train --data a --DR b", "--data a and --DR b: they mean the same"),
    ("train --DR a --data_root b", "--DR a and --data_root b: they mean the same"),
    ("test RUN --ckpt_path c", "RUN RUN and --ckpt_path c: they mean the same"),
    ("train --test", "--test needs --ckpt"),
    ("train --ckpt x.ckpt", "to begin with what another run has learnt"),
    ("evaluate nowhere", "no checkpoint at nowhere"),
    ("test", "expected a RUN, or --ckpt FILE"),
    ("data --out x --size 64", "--size 64: expected WIDTHxHEIGHT"),
    ("data --out x --from_tfrecord y --clips 3 --size 64x64", "--clips, --size: expected nothing but --out beside"),
    ("sweep --set anealing=none,cyclical", "did you mean 'annealing'"),
    ("sweep", "no points"),
    ("import nowhere.ckpt", "nowhere.ckpt"),
    ("import .", "a folder, expected a file"),
    ("import folder.safetensors", "a folder, expected a file"),
    ("bench --lab_times 2", "bench --lab_times: expected --quality"),
    ("data --out full", "full is not empty: expected the name of a new folder"),
    ("data --out full/x", "x is a file: expected the name of a new folder"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(line, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB4_RUNS", str(tmp_path))
    for folder in ("full", "folder.safetensors"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full" / "x").write_text("x")
    code, out, err = lab4(line, capsys)
    assert code == 2 and words in err and err.startswith("lab4: error: ") and err.count("\n") == 1 and not out
    monkeypatch.setenv("LAB4_DEBUG", "1")
    with pytest.raises(Lab4Error):
        cli.main(shlex.split(line))


@pytest.mark.parametrize("size", ["--frames 99999999999", "--size 99999999x32", "--kind robot --clips 99999999999"])
def test_more_than_the_memory_holds_is_refused_before_it_is_drawn(size, capsys, tmp_path, own_cache):
    code, _, err = lab4(f"data --out {tmp_path}/new {size}", capsys)
    (said,) = [line for line in err.splitlines() if line.startswith("lab4: error: data ")]
    assert code == 2 and "GB of memory that are free" in said and not (tmp_path / "new").exists()


def test_one_value_in_json_is_no_list_of_values(capsys):
    code, _, err = lab4('train --set data={"kind":"dancer","frames":1}'.replace('"', '\\"'), capsys)
    assert code == 2 and "frames" in err and "to try several values" not in err
    code, _, err = lab4('train --set annealing=\'["none","cyclical"]\'', capsys)
    assert code == 2 and "to try several values: lab4 sweep --set annealing=" in err, "a list in JSON is several"


def test_the_home_folder_is_found_behind_an_equals_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("USERPROFILE", "/somewhere")
    assert cli.at_home("--out=~/x") == "--out=/somewhere/x" and cli.at_home("~/x") == "/somewhere/x"
    for as_it_is in ("--out=~x", "--set", "a=~/x", "x~/y", "--out=", "--name=~~"):
        assert cli.at_home(as_it_is) == as_it_is
    assert cli.parse(["train", "--out=~/x"]).out == "/somewhere/x"


@pytest.mark.parametrize("line", ["trane", "train --bogus 1", "train --epochs many", "evaluate", ""])
def test_a_wrong_command_line_exits_with_2(line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(line))
    assert stop.value.code == 2


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "train", interrupted)
    code, _, err = lab4(f"train --out {tmp_path}", capsys)
    assert code == 130 and err == "lab4: stopped; the same command continues where it was\n"
    # a run that was asked to stop returns what it has: that is no success either
    partial = SimpleNamespace(result={"status": "partial"})
    monkeypatch.setattr(engine, "train", lambda *args, **kwargs: partial)
    assert lab4(f"train --out {tmp_path}", capsys)[0] == 130
    # nothing promises to go on where nothing does
    monkeypatch.setattr(cli.Bench, "main", interrupted)
    assert lab4("bench", capsys)[::2] == (130, "lab4: stopped\n")
    assert lab4("bench --quality 1", capsys)[2] == "lab4: stopped; the same command continues where it was\n"


@pytest.mark.parametrize("command", [["claims", "--markdown"], ["train", "--help"], ["--help"]])
def test_a_reader_that_goes_away_is_no_failure(command):
    """As `lab4 claims | head -1`: the pipe is closed before a line is written."""
    code = f"import sys; from lab4_core import cli; input(); sys.exit(cli.main({command}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd=paths.ROOT)  # fmt: skip
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(120) == 0 and process.stderr.read() == ""
    process.stderr.close()


def test_train_prints_the_run_last_and_does_not_train_twice(world, capsys):
    result = json.loads((world.run / "result.json").read_text())
    assert result["status"] == "finished" and result["steps"] == 2
    before = (world.run / "best.pt").stat().st_mtime_ns
    code, out, _ = lab4(f"train --data {world.data} --out {world.folder}/runs {TINY} {world.size}", capsys)
    assert code == 0 and out.splitlines()[-1] == str(world.run)
    assert (world.run / "best.pt").stat().st_mtime_ns == before


def test_loggers_are_handed_on(monkeypatch, capsys, tmp_path):
    asked = {}

    def train(cfg, out=None, resume="auto", loggers=()):
        asked.update(loggers=loggers, resume=resume)
        return SimpleNamespace(result={}, dir=tmp_path, scores=lambda: None)

    assert set(inspect.signature(train).parameters) <= set(inspect.signature(engine.train).parameters)
    monkeypatch.setattr(engine, "train", train)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "wandb")
    code, _, err = lab4("train --use_wandb --logger tensorboard --resume never", capsys)
    assert code == 0 and asked == {"loggers": ("tensorboard", "wandb"), "resume": "never"} and not err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = lab4("train --use_wandb", capsys)
    assert code == 0 and asked["loggers"] == () and err.count("\n") == 1 and "pip install 'lab4[wandb]'" in err


def test_evaluate_prints_the_model_beside_its_baselines(world, capsys):
    code, out, _ = lab4(f"evaluate {world.run} --samples 2 --device cpu", capsys)
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["PSNR", "(dB)", "SSIM", "worst", "frame", "(dB)"]
    assert [line.split("  ")[0] for line in lines[1:5]] == ["this run", "best sample", "repeat first", "copy previous"]
    assert any(line.startswith("samples: 2, scores averaged") for line in lines) and "scored_frames: 1..5" in lines
    # on another dataset, and with the newest run of a folder
    code, again, err = lab4(f"evaluate {world.folder}/runs --split train --data {world.data} --device cpu", capsys)
    assert code == 0 and world.run.name in err and "split: train" in again


def test_flags_that_a_run_has_no_use_for_are_named(world, capsys, tmp_path):
    code, _, err = lab4(f"test --ckpt {world.run}/last.pt --F_dim 64 --out {tmp_path} --device cpu", capsys)
    assert code == 0 and "--F_dim 64 has no effect" in err and f"taking {world.run}/best.pt" in err


def test_test_writes_the_submission_and_prints_what_it_wrote(world, capsys, tmp_path):
    code, out, _ = lab4(f"test {world.run} --out {tmp_path} --device cpu", capsys)
    written = [Path(line) for line in out.splitlines()]
    assert code == 0 and all(path.is_file() for path in written)
    assert {path.name for path in written} >= {"submission.csv", "pred_seq0.gif"}
    for seed in ("-1", "9" * 30):
        code, _, err = lab4(f"test {world.run} --out {tmp_path}/x --device cpu --seed {seed}", capsys)
        assert code == 2 and f"lab4: error: seed = {seed}: expected 0 or more" in err and err.count("\n") == 1


def test_an_exported_file_is_scored_like_a_run(world, capsys, tmp_path, monkeypatch, own_cache):
    monkeypatch.setenv("LAB4_RUNS", str(tmp_path))
    assert lab4(f"export {world.run} {tmp_path}/m.safetensors", capsys)[0] == 0
    of_the_run, of_the_file = (
        lab4(f"evaluate {what} --data {world.data} --device cpu", capsys)
        for what in (world.run, tmp_path / "m.safetensors")
    )
    assert of_the_file[0] == 0 and of_the_file[1].splitlines()[:5] == of_the_run[1].splitlines()[:5]


def test_import_and_evaluate_a_published_checkpoint(world, capsys, tmp_path):
    from lab4_core.registry import build

    widths = {"f_dim": 8, "l_dim": 4, "n_dim": 4, "d_dim": 8}
    model = build("model", {"kind": "lab", **widths}).build((3, 32, 64), (3, 32, 64))
    torch.save({"state_dict": model.state_dict(), "optimizer": model.state_dict(), "lr": 1e-3, "tfr": 0.0,
                "last_epoch": 9}, tmp_path / "epoch=9.ckpt")  # fmt: skip
    sets = " ".join(f"--set model.{k}={v}" for k, v in widths.items())
    code, out, _ = lab4(f"import '{tmp_path}/epoch=9.ckpt' --out {tmp_path}/runs --norm running {sets}", capsys)
    run = Path(out.strip())
    assert json.loads((run / "result.json").read_text())["status"] == "imported"
    assert code == 0 and json.loads((run / "config.json").read_text())["model"] == {
        "kind": "lab", **widths, "encoder_depth": 1, "generator_depth": 1, "output": "none",
        "norm": "running"}  # fmt: skip
    flags = "--F_dim 8 --L_dim 4 --N_dim 4 --D_out_dim 8 --val_vi_len 6 --device cpu"
    code, out, _ = lab4(
        f"train --DR {world.data} --save_root {tmp_path} --test --ckpt '{tmp_path}/epoch=9.ckpt' {flags}", capsys
    )
    assert code == 0 and "this run" in out and "scored_frames: 1..5" in out
    code, _, err = lab4(f"import '{tmp_path}/epoch=9.ckpt' --out {tmp_path}/runs", capsys)  # of other widths
    assert code == 2 and "another model" in err


def test_sweep_hands_its_points_on(monkeypatch, capsys, tmp_path):
    asked = {}

    def run_sweep(points, out, common, engine, slots, options, show):
        asked.update(points=points, out=out, common=common, engine=engine, slots=slots, options=options, show=show)
        return [{"status": "finished"}, {"status": "failed"}]

    monkeypatch.setattr("lab4_core.sweeps.sweep.run_sweep", run_sweep)
    (tmp_path / "sweep.yaml").write_text("seed: [0, 1]\n")
    line = f"sweep --engine ray --slots 3 --file {tmp_path}/sweep.yaml --out {tmp_path} --model compact --minutes 2 "
    code, out, err = lab4(line + f"--set annealing=cyclical,none --data {tmp_path} --address auto", capsys)
    assert code == 1 and "1 of 2 points did not finish" in err and out.splitlines()[-1] == str(tmp_path / "sweep.csv")
    assert asked["points"] == [{"seed": s, "annealing": a} for s in (0, 1) for a in ("cyclical", "none")]
    assert asked["common"] == {"preset": "compact", "profile": "full", "data": str(tmp_path), "minutes": 2.0,
                               "overrides": {"model": "compact"}}  # fmt: skip
    assert (asked["engine"], asked["slots"], asked["options"]["address"], asked["show"]) == ("ray", 3, "auto", False)


def test_a_sweep_in_which_only_some_points_cannot_run_is_started(monkeypatch, capsys, tmp_path):
    started = []
    monkeypatch.setattr("lab4_core.sweeps.sweep.run_sweep", lambda points, *a, **k: started.extend(points) or [])
    line = f"sweep --set annealing=monotonic,cyclical --set annealing.cycles=4 --out {tmp_path}"  # monotonic has none
    assert lab4(line, capsys)[0] == 0 and len(started) == 2


def test_report_and_bench_call_what_is_there(monkeypatch, capsys, tmp_path):
    calls = {}
    report = pytest.importorskip("lab4_core.pages.report")
    signature = inspect.signature(report.make_report)
    monkeypatch.setattr(report, "make_report", lambda **k: calls.update(signature.bind(**k).arguments) or "page.html")
    code, out, _ = lab4(f"report --profile smoke --data {tmp_path} --seed 3 --set epochs=2", capsys)
    assert code == 0 and out.splitlines()[-1] == "page.html"
    assert calls["profile"] == "smoke" and calls["preset"] == "compact" and calls["data"] == str(tmp_path)
    assert calls["overrides"] == {"seed": 3, "epochs": 2}

    bench = pytest.importorskip("lab4_core.bench.speed")
    signature = inspect.signature(bench.run_bench)
    monkeypatch.setattr(bench, "run_bench", lambda **k: calls.update(signature.bind(**k).arguments))
    assert lab4("bench --json b.json --quick", capsys)[0] == 0
    assert (calls["json_path"], calls["quick"]) == ("b.json", True)
    code, _, err = lab4(f"bench --data {tmp_path} --set seed=1", capsys)
    assert code == 2 and "bench --data, --set: expected --quality MINUTES beside it" in err


def test_the_time_left_of_a_training_that_goes_on_is_that_of_what_is_left(monkeypatch):
    """Half was done before; 60 seconds took it from 50 to 60 %."""
    said, now = [], [100.0]
    monkeypatch.setattr("lab4_core.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("lab4_core.progress._notebook_bar", lambda: lambda title, fraction, text: said.append(text))
    bar = Progress("run")
    bar.update(0.5, "epoch 5/10")
    now[0] += 60
    bar.update(0.6, "epoch 6/10")
    assert said == ["epoch 5/10", "epoch 6/10  4:00 left"]


def test_the_bar_of_a_stopped_training_is_not_full(monkeypatch):
    shares = []
    monkeypatch.setattr(
        "lab4_core.progress._notebook_bar", lambda: lambda title, fraction, text: shares.append(fraction)
    )
    for done in (False, True):
        bar = Progress("run")
        bar.update(0.25)
        bar.close("stopped", done=done)
    assert shares == [0.25, 0.25, 0.25, 1.0]
