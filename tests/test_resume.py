"""Nothing lost: a run that is killed, at whatever instant, goes on as if it had not been.

In CI 50 kills, shared by the models; `LAB4_LONG=1` takes 750, `LAB4_KILLS=n` takes n.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from training_child import CONTEXT, MODELS, TINY, finish, said, start

from lab4_core import checkpoint
from lab4_core.runlog import Run

LONG = os.environ.get("LAB4_LONG") == "1"
KILLS = int(os.environ.get("LAB4_KILLS") or (750 if LONG else 50))
FORCING = {
    "free": {"kind": "constant", "ratio": 0.0},
    "forced": {"kind": "constant", "ratio": 1.0},
    "mixed": {"kind": "constant", "ratio": 0.5, "draw": "frame"},
}


def the_run(out: Path) -> Run:
    (only,) = out.glob("run-*")
    return Run(only)


def flat(tree):
    """A tree that can be compared: tensors as their bytes."""
    if isinstance(tree, dict):
        return {k: flat(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [flat(v) for v in tree]
    return (str(tree.dtype), tree.shape, tree.cpu().numpy().tobytes()) if isinstance(tree, torch.Tensor) else tree


def kept(run: Run) -> dict:
    """All that a run leaves, without what a clock said."""
    clocks = ("seconds", "eval_seconds", "log_size")
    lines = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    states = {name: checkpoint.load(run.dir / name) for name in ("last.pt", "best.pt")}
    with np.load(run.dir / "scores.npz") as f:
        scores = {k: f[k].tobytes() for k in f.files}
    return {
        "metrics": [{k: v for k, v in line.items() if k not in clocks} for line in lines],
        **{name: flat({k: v for k, v in state.items() if k not in clocks}) for name, state in states.items()},
        "scores": scores,
        "result": {k: v for k, v in run.result.items() if k not in clocks},
    }


def same(a: Run, b: Run) -> None:
    x, y = kept(a), kept(b)
    for what in x:
        assert x[what] == y[what], f"{what} of {a.dir} and {b.dir}"


def resumed(folder: Path, values: dict, save_seconds: float) -> tuple[Run, Run]:
    """17 steps, kill -9, 23 steps in a new process; and 40 in one go."""
    assert finish(values, str(folder / "killed"), die_at=17, save_seconds=save_seconds) == -9, said(folder / "killed")
    for name in ("killed", "whole"):
        assert finish(values, str(folder / name), save_seconds=save_seconds) == 0, said(folder / name)
    a, b = the_run(folder / "killed"), the_run(folder / "whole")
    assert a.result["steps"] == 40 and a.finished
    return a, b


@pytest.mark.parametrize("forcing", FORCING)
@pytest.mark.parametrize("model", MODELS)
def test_17_steps_a_kill_and_23_are_40_bit_for_bit(folder, model, forcing):
    """Weights, optimizer, EMA, data order, noise, schedules, log, best-so-far. Epochs have 14 steps: the kill comes in
    the middle of one, the checkpoint is of the step before it, or of the epoch before it."""
    values = {**TINY, **MODELS[model], "teacher_forcing": FORCING[forcing]}
    same(*resumed(folder, values, save_seconds=0 if forcing != "forced" else 3600))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_on_a_gpu_under_deterministic_algorithms(folder, model, precision):
    values = {**TINY, **MODELS[model], "teacher_forcing": FORCING["mixed"], "device": "cuda", "precision": precision}
    same(*resumed(folder, values, save_seconds=0))


def loads(run: Run) -> None:
    """What a killed run must leave: whatever is there can be read."""
    for name in ("last.pt", "previous.pt", "best.pt"):
        if (run.dir / name).exists():
            checkpoint.load(run.dir / name)
    for kind in ("step", "epoch", "eval"):
        run.metrics(kind)
    run.scores()
    assert repr(run)


def killed(rng: random.Random, values: dict, out: Path, length: float) -> bool:
    """Train, and kill -9 at a random instant: of the start in one case of four, else of the `length` seconds after the
    first step began. False when it was through before that."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = start(values, str(out), begun=there)
    there.close()
    if rng.random() > 0.25:
        here.poll(60)  # till the child closes its end, or dies
    process.join(rng.uniform(0, length))
    process.kill()
    process.join()
    here.close()
    assert process.exitcode in (0, -9), said(out)
    return process.exitcode == -9


@pytest.mark.parametrize("model, wanted", [(m, len(range(i, KILLS, len(MODELS)))) for i, m in enumerate(MODELS)])
def test_killed_at_random_instants_it_loads_and_ends_the_same(folder, model, wanted, record_property):
    """One run is killed again and again until it is through; each time what it left can be read, and at last it is the
    run that was left alone, bit for bit."""
    values = {**TINY, **MODELS[model], "teacher_forcing": FORCING["mixed"], "steps": 30, "epochs": 5}
    assert finish(values, str(folder / "whole")) == 0, said(folder / "whole")
    whole = the_run(folder / "whole")
    rng, kills, runs, places = random.Random(None if LONG else 4), 0, 0, set()
    while kills < wanted:
        out, step, patience = folder / f"killed{runs}", -1, whole.result["seconds"] / 4
        while kills < wanted and killed(rng, values, out, patience):
            kills += 1
            before = step
            if list(out.glob("run-*/config.json")):
                run = the_run(out)
                loads(run)
                step = checkpoint.load(run.dir / "last.pt")["step"] if (run.dir / "last.pt").exists() else before
            places.add(step)
            patience *= 0.8 if step > before else 1.3  # on a busy machine a run needs longer to come to anything
        runs += 1
        assert finish(values, str(out)) == 0, said(out)
        same(the_run(out), whole)
        assert not [p.name for p in the_run(out).dir.iterdir() if p.name.startswith(".")], "no leftovers"
    assert kills == wanted
    record_property("kills survived", kills)
    print(f"{model}: {kills} kills in {runs} runs, at {len(places)} different steps")
    assert len(places) > min(8, wanted // 3), "the kills came at too few places to prove anything"
