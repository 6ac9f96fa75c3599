"""The sweep engine on a stand-in for notebook 06: the same parameter cell, a run directory instead of a training."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from lab4_core import sweep
from lab4_core.errors import Lab4Error
from lab4_core.paths import ROOT
from lab4_core.sweep_point import read_status, run_one

PARAMETERS = """
profile: str = "smoke"
preset: str = "compact"
data: str = ""
out: str = ""
seed: int = 0
minutes: float = 0.0
overrides: dict = {}
"""
BODY = """
import json, os, time
from pathlib import Path
kind = overrides["annealing"]
if kind == "dead":
    os._exit(9)
if kind == "wrong":
    raise ValueError("no <script>such</script>\\nannealing")
time.sleep(overrides.get("sleep", 0))
run = Path(out) / "stand-in-0123"
run.mkdir(parents=True, exist_ok=True)
psnr = {"cyclical": 20.0, "monotonic": 30.0}[kind] + seed
(run / "result.json").write_text(json.dumps({
    "status": "finished", "reason": None, "psnr": psnr, "ssim": 0.5, "best_epoch": 1, "steps": 3, "seconds": 1.5,
    "baselines": {"repeat_first": {"psnr": 18.0}, "copy_previous": {"psnr": 33.0}}, "parameters": 7,
    "effective_beta": 2.0}))
with open(os.environ["STARTED"], "a") as f:
    print(kind, seed, Path.cwd().name, os.environ["OMP_NUM_THREADS"], file=f)
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Its path; every execution that gets to the end leaves a line in the file $STARTED."""
    cell = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    path = tmp_path / "books" / "06_train.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(BODY)]), path)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    (tmp_path / "started").write_text("")
    return path


def compared(rows):
    """The part of a table that does not depend on the clock."""
    return [{k: v for k, v in row.items() if k not in sweep.TIMINGS} for row in rows]


def test_expand_a_grid_and_a_list():
    points = sweep.expand({"annealing": ["cyclical", "none"], "seed": [0, 1], "preset": "lab"})
    assert [(p["annealing"], p["seed"]) for p in points] == [("cyclical", 0), ("cyclical", 1), ("none", 0), ("none", 1)]
    assert all(p["preset"] == "lab" for p in points)
    assert sweep.expand([{"seed": 1}, {"seed": 2, "epochs": [3, 4]}, {"seed": 1}]) == [
        {"seed": 1}, {"seed": 2, "epochs": 3}, {"seed": 2, "epochs": 4}]  # fmt: skip
    assert sweep.expand({"strategies": [["ema", "input_noise"], []]}) == [
        {"strategies": ["ema", "input_noise"]}, {"strategies": []}]  # fmt: skip


@pytest.mark.parametrize("wrong", ["annealing", [1, 2], {"seed": []}])
def test_expand_refuses_what_is_no_grid(wrong):
    with pytest.raises(Lab4Error, match="expected"):
        sweep.expand(wrong)


def test_read_file(tmp_path):
    (tmp_path / "a.yaml").write_text("annealing: [cyclical, none]\nteacher_forcing.ratio: [0.0, 0.5]\n")
    assert len(sweep.read_file(tmp_path / "a.yaml")) == 4
    (tmp_path / "b.yaml").write_text("- {seed: 1}\n- {seed: [2, 3]}\n")
    assert sweep.read_file(tmp_path / "b.yaml") == [{"seed": 1}, {"seed": 2}, {"seed": 3}]
    (tmp_path / "c.yaml").write_text("seed: [1\n")
    with pytest.raises(Lab4Error, match=r"c\.yaml is not YAML"):
        sweep.read_file(tmp_path / "c.yaml")
    with pytest.raises(Lab4Error, match="nothing"):
        sweep.read_file(tmp_path / "nothing.yaml")


def test_parameters_and_fingerprint():
    common = {"profile": "smoke", "preset": "lab", "data": "/d", "overrides": {"model": "compact"}}
    params = sweep.notebook_parameters({"seed": 3, "preset": "compact", "annealing.cycles": 4}, common)
    assert params == {"profile": "smoke", "preset": "compact", "data": "/d", "seed": 3,
                      "overrides": {"model": "compact", "annealing.cycles": 4}}  # fmt: skip
    assert sweep.fingerprint(params) == sweep.fingerprint({**params, "out": "elsewhere"})
    assert sweep.fingerprint(params) != sweep.fingerprint({**params, "seed": 4})


def test_a_sweep_runs_each_point_once_and_a_failure_stops_nothing(notebook, tmp_path):
    points = sweep.expand({"annealing": ["wrong", "monotonic", "dead", "cyclical"]})
    common, said = {"profile": "smoke", "seed": 2}, []
    rows = sweep.run_sweep(points, tmp_path / "out", common, slots=2, notebook=notebook, say=said.append)

    assert [row["annealing"] for row in rows] == ["wrong", "monotonic", "dead", "cyclical"]
    assert [row["status"] for row in rows] == ["failed", "finished", "failed", "finished"]
    assert [row["psnr"] for row in rows] == [None, 32.0, None, 22.0]
    assert rows[0]["reason"] == "ValueError: no <script>such</script> annealing"
    assert "Kernel died" in rows[2]["reason"] or "DeadKernel" in rows[2]["reason"]
    assert rows[1]["repeat_first_psnr"] == 18.0 and rows[1]["steps"] == 3 and rows[1]["seconds"] == 1.5
    # each in the notebook's folder, with its share of the cores
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    started = (tmp_path / "started").read_text().splitlines()
    assert sorted(started) == [f"cyclical 2 books {threads}", f"monotonic 2 books {threads}"]
    assert len(said) == 5 and "4/4" in said[-1] and "0 s left" in said[-1]

    for row in rows:
        folder = tmp_path / "out" / "points" / row["point"]
        assert {"params.json", "status.json", "executed.ipynb", "log.txt"} <= set(os.listdir(folder))
    with open(tmp_path / "out" / "sweep.csv", newline="") as f:
        table = list(csv.DictReader(f))
    assert [r["psnr"] for r in table] == ["", "32.0", "", "22.0"] and list(table[0])[-2:] == list(sweep.TIMINGS)
    assert "<script>" not in (tmp_path / "out" / "sweep.html").read_text()
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["points"] == points

    # started again: only the two that failed, and the same table
    again = sweep.run_sweep(points, tmp_path / "out", common, slots=2, notebook=notebook, say=said.append)
    assert compared(again) == compared(rows) and (tmp_path / "started").read_text().splitlines() == started
    assert "2 finished before, 2 to run" in said[5]


def test_killed_and_started_again_ends_in_the_same_table(notebook, tmp_path):
    points = sweep.expand({"annealing": ["cyclical", "monotonic"], "seed": [0, 1], "sleep": 1})
    code = (
        "from lab4_core import sweep; import sys, json\n"
        "if __name__ == '__main__':\n"
        "    sweep.run_sweep(json.loads(sys.argv[1]), sys.argv[2], slots=1, notebook=sys.argv[3])\n"
    )
    (tmp_path / "start.py").write_text(code)
    command = [sys.executable, tmp_path / "start.py", json.dumps(points), str(tmp_path / "out"), str(notebook)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    wait_until(lambda: len((tmp_path / "started").read_text().splitlines()) == 1, process)
    wait_until(lambda: sum(bool(read_status(f)) for f in (tmp_path / "out" / "points").iterdir()) == 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(4)  # longer than the point that was running would have needed: it must have died with its sweep
    assert len((tmp_path / "started").read_text().splitlines()) == 1

    rows = sweep.run_sweep(points, tmp_path / "out", slots=1, notebook=notebook)
    assert [(r["annealing"], r["seed"], r["psnr"]) for r in rows] == [
        ("cyclical", 0, 20.0), ("cyclical", 1, 21.0), ("monotonic", 0, 30.0), ("monotonic", 1, 31.0)]  # fmt: skip
    assert len((tmp_path / "started").read_text().splitlines()) == 4  # none of them twice


def wait_until(true, process, seconds=90):
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < end, "the sweep ended or hung too early"
        time.sleep(0.05)


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_other_engines_give_the_same_table(engine, module, notebook, tmp_path):
    if not importlib.util.find_spec(module):
        pytest.skip(f"{module} is not installed: pip install 'lab4[{engine}]'")
    points = sweep.expand({"annealing": ["cyclical", "wrong"]})
    options = {"cluster": "local"} if engine == "slurm" else {}
    try:
        rows = sweep.run_sweep(points, tmp_path / "a", slots=2, notebook=notebook, engine=engine, options=options)
    except Lab4Error as e:
        if "Ray did not start" not in str(e):
            raise
        pytest.skip(f"{e}")  # Ray gives its own node 15 seconds, too few on a machine that is busy with other tests
    assert compared(rows) == compared(sweep.run_sweep(points, tmp_path / "b", slots=2, notebook=notebook))
    assert [row["status"] for row in rows] == ["finished", "failed"]


def test_mistakes_are_one_clear_error(notebook, tmp_path):
    with pytest.raises(Lab4Error, match="did you mean 'local'"):
        sweep.run_sweep([{"seed": 0}], tmp_path, engine="locl")
    with pytest.raises(Lab4Error, match="no points"):
        sweep.run_sweep([], tmp_path)
    with pytest.raises(Lab4Error, match="slots = -1"):
        sweep.run_sweep([{"seed": 0}], tmp_path, slots=-1)
    with pytest.raises(Lab4Error, match=r"no notebook .*99\.ipynb"):
        run_one({}, tmp_path, tmp_path / "99.ipynb")


@pytest.mark.skipif(importlib.util.find_spec("submitit") is not None, reason="submitit is installed")
def test_an_engine_that_is_not_installed_says_how_to_get_it(notebook, tmp_path):
    with pytest.raises(Lab4Error, match=r"pip install 'lab4\[slurm\]'"):
        sweep.run_sweep([{"seed": 0}], tmp_path, engine="slurm", notebook=notebook)
