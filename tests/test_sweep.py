"""The sweep engine on a stand-in for notebook 06: the same parameter cell, a run directory instead of a training."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from lab4_core.data import load_data
from lab4_core.errors import Lab4Error
from lab4_core.paths import ROOT
from lab4_core.presets import load_config
from lab4_core.runlog import owning
from lab4_core.sweeps import engines, sweep, watch
from lab4_core.sweeps import table as sweep_table
from lab4_core.sweeps.point import read_status, run_one

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
with open(os.environ["STARTED"] + ".pids", "a") as f:
    print(os.getpid(), file=f)
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
    """Its path; every execution leaves its process in $STARTED.pids, and at the end a line in $STARTED."""
    cell = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    path = tmp_path / "books" / "06_train.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(BODY)]), path)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    (tmp_path / "started").write_text("")
    return path


def compared(rows):
    """The part of a table that does not depend on the clock."""
    return [{k: v for k, v in row.items() if k not in sweep_table.TIMINGS} for row in rows]


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


def test_files_of_strategies_are_found_from_the_folder_of_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(b"")
    given = ["ema", {"kind": "warm_start", "weights": "mine.safetensors"}, {"kind": "warm_start", "weights": "none"}]
    found = sweep.notebook_parameters({"strategies": given}, {})["overrides"]["strategies"]
    assert found == [given[0], {**given[1], "weights": str(tmp_path / "mine.safetensors")}, given[2]]


def test_what_a_part_was_told_is_forgotten_with_the_part():
    common = {"overrides": {"annealing.cycles": 2}}
    told = [sweep.notebook_parameters({"annealing": kind}, common)["overrides"] for kind in ("cyclical", "none")]
    assert told == [{"annealing": "cyclical", "annealing.cycles": 2}, {"annealing": "none"}]


def finished_point(folder, digest, name="stand-in-0123", **result):
    run = folder / "run" / name
    run.mkdir(parents=True)
    (run / "result.json").write_text(
        json.dumps({"status": "finished", "psnr": 20.0, "data": {"digest": digest}} | result)
    )
    (folder / "status.json").write_text(json.dumps({"status": "finished", "psnr": 20.0, "run": f"run/{name}"}))


def test_points_of_data_that_have_changed_run_again(notebook, tmp_path):
    small = {"data": {"kind": "dancer", "clips": 1, "frames": 20, "test_clips": 1, "height": 16, "width": 32}}
    points, out = [{"annealing": "cyclical"}, {"annealing": "monotonic"}], tmp_path / "out"
    params = [sweep.notebook_parameters(p, {"overrides": small}) for p in points]
    today = load_data(load_config("smoke", "compact", None, small)).digest
    for p, digest in zip(params, (today, "ofbefore")):
        finished_point(out / "points" / sweep.fingerprint(p), digest)
    said = []
    rows = sweep.run_sweep(points, out, {"overrides": small}, notebook=notebook, say=said.append)
    assert [row["psnr"] for row in rows] == [20.0, 30.0] and "sweep: 1 points were measured on other data" in said[0]
    assert len((tmp_path / "started").read_text().splitlines()) == 1
    kept = out / "points" / sweep.fingerprint(params[1]) / "run-ofbefore" / "stand-in-0123" / "result.json"
    assert json.loads(kept.read_text())["psnr"] == 20.0, "what was measured before is there"


def test_points_of_code_that_has_changed_are_kept_with_a_note(notebook, tmp_path):
    small = {"data": {"kind": "dancer", "clips": 1, "frames": 20, "test_clips": 1, "height": 16, "width": 32}}
    points, out, said = [{"annealing": "cyclical"}, {"annealing": "monotonic"}], tmp_path / "out", []
    params = [sweep.notebook_parameters(p, {"overrides": small}) for p in points]
    for p, code in zip(params, (None, "of before")):
        cfg = load_config("smoke", "compact", None, p["overrides"])
        finished_point(out / "points" / sweep.fingerprint(p), load_data(cfg).digest, code=code or cfg.code())
    rows = sweep.run_sweep(points, out, {"overrides": small}, notebook=notebook, say=said.append)
    assert [row["psnr"] for row in rows] == [20.0, 20.0] and not (tmp_path / "started").read_text()
    assert "note: 1 points were trained before the code of their parts changed" in said[0]


def test_a_point_whose_data_were_mended_is_finished_by_its_new_run(notebook, tmp_path):
    finished_point(tmp_path / "point", "x", "stand-in-of-bad-data", status="failed", reason="too short")
    (tmp_path / "point" / "status.json").write_text('{"status": "failed", "reason": "too short"}')
    status = run_one({"overrides": {"annealing": "monotonic"}}, tmp_path / "point", notebook)
    assert (status["status"], status["psnr"], status["run"]) == ("finished", 30.0, "run/stand-in-0123")


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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # not on macOS
    threads = max(1, cores // 2)
    started = (tmp_path / "started").read_text().splitlines()
    assert sorted(started) == [f"cyclical 2 books {threads}", f"monotonic 2 books {threads}"]
    assert len(said) == 5 and "4/4  annealing=" in said[-1] and "0 s left" in said[-1]

    for row in rows:
        folder = tmp_path / "out" / "points" / row["point"]
        assert {"params.json", "status.json", "executed.ipynb", "log.txt"} <= set(os.listdir(folder))
    with open(tmp_path / "out" / "sweep.csv", newline="") as f:
        table = list(csv.DictReader(f))
    assert [r["psnr"] for r in table] == ["", "32.0", "", "22.0"] and list(table[0])[-2:] == list(sweep_table.TIMINGS)
    assert "<script>" not in (tmp_path / "out" / "sweep.html").read_text()
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["points"] == points

    # started again: only the two that failed, and the same table
    again = sweep.run_sweep(points, tmp_path / "out", common, slots=2, notebook=notebook, say=said.append)
    assert compared(again) == compared(rows) and (tmp_path / "started").read_text().splitlines() == started
    assert "2 finished before, 2 to run" in said[5]


def test_killed_and_started_again_ends_in_the_same_table(notebook, tmp_path):
    points = sweep.expand({"annealing": ["cyclical", "monotonic"], "seed": [0, 1], "sleep": 1})
    code = (
        "from lab4_core.sweeps import sweep; import sys, json\n"
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
    wait_until(lambda: not alive(tmp_path))  # the point that was running must die with its sweep
    assert len((tmp_path / "started").read_text().splitlines()) == 1

    rows = sweep.run_sweep(points, tmp_path / "out", slots=1, notebook=notebook)
    assert [(r["annealing"], r["seed"], r["psnr"]) for r in rows] == [
        ("cyclical", 0, 20.0), ("cyclical", 1, 21.0), ("monotonic", 0, 30.0), ("monotonic", 1, 31.0)]  # fmt: skip
    assert len((tmp_path / "started").read_text().splitlines()) == 4  # none of them twice


def test_a_point_that_hangs_is_ended_and_the_others_are_not(notebook, tmp_path):
    """An execution by papermill can hang; the point says so, and its kernel dies with it."""
    points = [{"annealing": "cyclical", "sleep": 600}, {"annealing": "monotonic"}]
    options = {"timeout_min": 0.15}
    rows = sweep.run_sweep(points, tmp_path / "out", slots=2, notebook=notebook, options=options)
    assert rows[0]["status"] == "failed" and "not finished after 0.15 minutes, its time limit" in rows[0]["reason"]
    if rows[1]["status"] != "finished":  # a machine on which starting a kernel takes longer
        assert "its time limit" in rows[1]["reason"]
    wait_until(lambda: not alive(tmp_path), seconds=30)
    with pytest.raises(Lab4Error, match="timeout_min = -1"):
        sweep.run_sweep(points, tmp_path / "out", notebook=notebook, options={"timeout_min": -1})


def test_each_slot_has_gpus_of_its_own(notebook, tmp_path, monkeypatch):
    """Three points, two GPUs, one a point: the third takes the one that is free again."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    said, seen = [], []

    class Process:
        def __init__(self, folder):
            self.folder, self.exitcode = folder, 0
            self.sentinel, self.other = os.pipe()

        def join(self):
            os.close(self.sentinel)

    def start(params, folder, notebook, threads, minutes, gpus):
        process = Process(folder)
        os.close(process.other)  # over at once
        seen.append(gpus)
        return process

    monkeypatch.setattr(engines, "start", start)
    points = [{"seed": seed} for seed in range(3)]
    rows = sweep.run_sweep(points, tmp_path / "out", notebook=notebook, options={"gpus": 1}, say=said.append)
    assert [row["status"] for row in rows] == ["failed"] * 3, "nothing ran"
    assert "2 at a time" in said[0] and seen[:2] == ["4", "7"] and seen[2] in seen[:2]
    with pytest.raises(Lab4Error, match="gpus = 3: this machine has 2"):
        sweep.run_sweep(points, tmp_path / "out", notebook=notebook, options={"gpus": 3})


def test_two_sweeps_do_not_work_in_one_folder(notebook, tmp_path):
    with owning(tmp_path), pytest.raises(Lab4Error, match=f"in use by process {os.getpid()}"):
        sweep.run_sweep([{"seed": 0}], tmp_path, notebook=notebook)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"status": 5}', b"[" * 100_000])
def test_a_status_that_cannot_be_read_is_a_point_that_is_run_again(notebook, tmp_path, content):
    (tmp_path / "status.json").write_bytes(content)
    assert read_status(tmp_path) == {}


def wait_until(true, process=None, seconds=90):
    """Wait for it, as long as the process lives."""
    end = time.monotonic() + seconds
    while not true():
        assert process is None or process.poll() is None, "the sweep ended too early"
        assert time.monotonic() < end, "the sweep hung"
        time.sleep(0.05)


def alive(tmp_path):
    """The processes of executed notebooks that are still there."""

    def state(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "gone"

    pids = tmp_path / "started.pids"
    return [pid for pid in (pids.read_text().split() if pids.exists() else ()) if state(pid) not in ("gone", "Z")]


GRID = {"annealing": ["cyclical", "monotonic", "none"], "teacher_forcing.ratio": [0.0, 1.0], "seed": [0, 1]}
SCORED = """
import hashlib, json
from pathlib import Path
digest = hashlib.sha256(json.dumps([profile, preset, data, seed, overrides], sort_keys=True).encode()).hexdigest()
run = Path(out) / "stand-in-0123"
run.mkdir(parents=True)
(run / "result.json").write_text(json.dumps({
    "status": "finished", "psnr": 20 + int(digest[:8], 16) / 2**32, "ssim": 0.5, "steps": 4}))
"""


def points_on(engine, folder, notebook, options=None):
    """The table of 3 annealing types x 2 teacher-forcing ratios x 2 seeds on an engine, its clock left out."""
    try:
        rows = sweep.run_sweep(
            sweep.expand(GRID), folder, slots=2, notebook=notebook, engine=engine, options=options, say=lambda _: None
        )
    except Lab4Error as e:
        if "Ray did not start" not in str(e):
            raise
        pytest.skip(f"{e}")  # Ray gives its own node 30 seconds, too few on a machine that is very busy
    return compared(rows)


@pytest.fixture(scope="module")
def table_of_local(tmp_path_factory):
    """(the notebook, its table on the local engine). What it computes is a pure function of its parameters."""
    folder = tmp_path_factory.mktemp("engines")
    cell = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    path = folder / "06_train.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(SCORED)]), path)
    return path, points_on("local", folder / "local", path)


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_other_engines_give_the_same_table(engine, module, table_of_local, tmp_path):
    pytest.importorskip(module)
    notebook, expected = table_of_local
    assert [row["status"] for row in expected] == ["finished"] * 12 and len({row["psnr"] for row in expected}) == 12
    assert points_on(engine, tmp_path, notebook, {"cluster": "local"}) == expected


def test_slurm_jobs_left_behind_are_waited_for_and_not_repeated(notebook, tmp_path):
    """The sweep is killed, its job is not; the same sweep started again takes the job's result."""
    pytest.importorskip("submitit")
    points = sweep.expand({"annealing": ["cyclical", "monotonic"], "sleep": 2})
    code = (
        "from lab4_core.sweeps import sweep; import sys, json\n"
        "sweep.run_sweep(json.loads(sys.argv[1]), sys.argv[2], slots=1, notebook=sys.argv[3], engine='slurm',"
        " options={'cluster': 'local'})\n"
    )
    command = [sys.executable, "-c", code, json.dumps(points), str(tmp_path / "out"), str(notebook)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    running = tmp_path / "out" / "points"
    wait_until(lambda: running.is_dir() and any(read_status(f) for f in running.iterdir()), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "started").read_text() == "", "killed while the first point was running"
    rows = sweep.run_sweep(points, tmp_path / "out", slots=2, notebook=notebook, engine="slurm",
                           options={"cluster": "local"})  # fmt: skip
    assert [(r["annealing"], r["psnr"]) for r in rows] == [("cyclical", 20.0), ("monotonic", 30.0)]
    assert len((tmp_path / "started").read_text().splitlines()) == 2, "none of them twice"


def test_parquet_keeps_the_types_of_the_table(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"point": "a", "seed": 1, "strategies": '["ema"]', "mixed": 1, "psnr": 20.5},
            {"point": "b", "seed": 2, "strategies": None, "mixed": "x", "psnr": None}]  # fmt: skip
    sweep_table.write_parquet(rows, tmp_path)
    table = parquet.read_table(tmp_path / "sweep.parquet")
    assert table.to_pylist() == [{**rows[0], "mixed": "1"}, rows[1]]
    assert str(table.schema.field("seed").type) == "int64" and str(table.schema.field("psnr").type) == "double"


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


def test_a_sweep_says_how_far_its_points_are(tmp_path):
    log = tmp_path / "a" / "run" / "compact-1" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    assert watch.under_way(tmp_path / "a") == "" == watch.under_way(tmp_path / "nothing")
    (log.parent / "config.json").write_text('{"epochs": 20}')
    log.write_text('{"kind": "epoch", "epoch": 0}\n{"kind": "step", "epoch": 1}\n{"kind": "epoch", "epoch": 6}\n')
    assert watch.under_way(tmp_path / "a") == "epoch 7/20"
    said = []
    with watch.watching({tmp_path / "a": "seed=1", tmp_path / "b": "seed=2"}, said.append, every=0.01):
        time.sleep(0.3)
        with log.open("a") as f:
            f.write('{"kind": "epo')  # the point is writing
        time.sleep(0.1)
    assert said == ["sweep: under way: seed=1 epoch 7/20"]
    (tmp_path / "a" / "status.json").write_text('{"status": "finished"}')
    assert watch.under_way(tmp_path / "a") == ""
