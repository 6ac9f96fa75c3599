"""Several processes train as one: two of them on the CPU, as torchrun starts them."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

import lab4_core as l4
from lab4_core import checkpoint, distributed
from lab4_core.batches import make_batch
from lab4_core.clock import Clock
from lab4_core.config import Config
from lab4_core.data import load_data
from lab4_core.errors import Lab4Error
from lab4_core.layers import StepBatchNorm2d
from lab4_core.paths import ROOT
from lab4_core.runlog import Run
from lab4_core.training import Learner, build_model

CPU = torch.device("cpu")
TINY = {
    "data": {"kind": "dancer", "clips": 1, "frames": 30, "test_clips": 1},
    "model": {"kind": "compact", "width": 8},
    "optimizer": {"kind": "sgd", "lr": 0.1},  # the weights move as the gradients say, without Adam's division
    "lr_schedule": "constant",
    "teacher_forcing": {"kind": "constant", "ratio": 0.5, "draw": "frame"},
    "beta": 1e-3,
    "annealing": "none",
    "n_frames": 4,
    "windows": "random",
    "batch_size": 4,
    "grad_clip": 0.0,
    "steps": 3,
    "epochs": 3,
    "eval_frames": 8,
    "device": "cpu",
    "precision": "fp32",
}
LAB = {**TINY, "model": {"kind": "lab", "f_dim": 8, "l_dim": 4, "n_dim": 4, "d_dim": 8}, "optimizer.lr": 0.01}
UNEVEN = {**TINY, "windows": "fixed"}  # a pass over 7 windows: a batch of 4 and one of 3


def steps_of(values: dict) -> dict[str, torch.Tensor]:
    """Weights and buffers after three steps, and the terms of the last one."""
    cfg = Config.from_dict(values)
    clips = load_data(cfg).train
    learner, clock = Learner(cfg, build_model(cfg, clips, CPU), CPU), Clock(cfg, clips.spans)
    for step in range(3):
        batch = make_batch(cfg, clips, clock.at(step, 0.0), step, learner.model.needs_reference)
        terms = learner.step(batch, step, cfg.beta, cfg.optimizer.lr)
    return {**learner.model.state_dict(), **terms}


def torchrun(tmp_path, code: str, *arguments, **env) -> subprocess.CompletedProcess:
    script = tmp_path / "start.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **env}
    return subprocess.run([*map(str, command), *map(str, arguments)], env=env, cwd=tmp_path, capture_output=True,
                          text=True, timeout=300)  # fmt: skip


STEPS = """
import sys, torch
from lab4_core import distributed
from test_distributed import LAB, TINY, UNEVEN, steps_of
with distributed.processes(4, "cpu"):
    assert distributed.size() == 2
    found = {name: steps_of(values) for name, values in (("compact", TINY), ("lab", LAB), ("uneven", UNEVEN))}
    if distributed.leads():
        torch.save(found, sys.argv[1])
"""


def test_two_processes_take_the_steps_of_one_with_the_joint_batch(tmp_path, monkeypatch):
    """Weights after three steps of plain gradient descent are equal, so the gradients were; BatchNorm included, where
    torch's own kernel for channels-last tensors on the CPU is too coarse to compare with: poses are nearly all white,
    their variance small."""
    at_once = StepBatchNorm2d.at_once
    monkeypatch.setattr(StepBatchNorm2d, "forward", lambda self, x, groups=1: at_once(self, x.contiguous(), groups))
    done = torchrun(tmp_path, STEPS, tmp_path / "found.pt")
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for name, values in (("compact", TINY), ("lab", LAB), ("uneven", UNEVEN)):
        alone, start = (
            steps_of(values),
            build_model(Config.from_dict(values), load_data(Config.from_dict(values)).train, CPU),
        )
        assert alone.keys() == found[name].keys()
        for key, value in alone.items():
            torch.testing.assert_close(found[name][key], value, rtol=1e-4, atol=2e-6, msg=lambda m, k=key: f"{k}: {m}")
        moved = max((alone[k] - v).abs().max() for k, v in start.named_parameters())
        assert moved > 1e-3, "far more than the tolerance"


TRAIN = """
import json, os, sys
from lab4_core import cli, engine, training
if int(sys.argv[1]) >= 0 and os.environ["RANK"] == "1":
    step = training.Learner.step
    def dying(self, batch, number, *rest):
        if number == int(sys.argv[1]):
            os._exit(9)
        return step(self, batch, number, *rest)
    training.Learner.step = dying
engine.SAVE_SECONDS = 0  # a checkpoint after every step
sys.exit(cli.main(["train", "--preset", "lab", *sys.argv[2:]]))
"""


def arguments(values: dict, out) -> list[str]:
    return [a for k, v in values.items() for a in ("--set", f"{k}={json.dumps(v)}")] + ["--out", str(out)]


def test_a_lost_process_ends_the_run_and_the_same_command_goes_on(tmp_path):
    values = {**TINY, "steps": 5, "strategies": ["ema"]}
    (tmp_path / "tmp").mkdir()
    env = {"TMPDIR": str(tmp_path / "tmp")}
    lost = torchrun(tmp_path, TRAIN, 3, *arguments(values, tmp_path / "runs"), **env)
    assert lost.returncode != 0
    assert re.search(r"another process of this training is lost .*the same command continues", lost.stderr), lost.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert checkpoint.load(folder / "last.pt")["step"] == 3
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "failed" and "another process of this training is lost" in result["reason"]
    left_behind = set((tmp_path / "tmp").glob("lab4-*"))  # whoever dies on the spot cannot clean up

    done = torchrun(tmp_path, TRAIN, -1, *arguments(values, tmp_path / "runs"), **env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str(folder) and done.stdout.count(str(folder)) == 1, "one of them speaks"
    run = Run(folder)
    assert run.finished and run.result["steps"] == 5 and len(list((tmp_path / "runs").iterdir())) == 1
    assert set((tmp_path / "tmp").glob("lab4-*")) == left_behind, "nothing of the other process is left"
    alone = l4.train(run.config, out=tmp_path / "alone")
    assert run.result["psnr"] == pytest.approx(alone.result["psnr"], abs=0.01)
    ours, theirs = (r.metrics("epoch")[-1] for r in (run, alone))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3) and ours["step"] == theirs["step"]


def test_a_batch_that_cannot_be_shared_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with (
        pytest.raises(Lab4Error, match="batch_size = 4: expected a multiple of the 3 processes"),
        distributed.processes(4),
    ):
        pass
    with (
        pytest.raises(
            Lab4Error, match="device = 'cuda:1': expected auto or cuda; each of the 3 processes takes its own"
        ),
        distributed.processes(3, "cuda:1"),
    ):
        pass


def test_alone_nothing_changes():
    x = torch.ones(3, requires_grad=True)
    assert distributed.size() == 1 and distributed.leads() and distributed.total(x) is x
    assert distributed.share(5) == slice(None) and distributed.latest(1.5) == 1.5 and not distributed.anywhere(False)
