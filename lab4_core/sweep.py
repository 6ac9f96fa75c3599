"""Sweeps: many runs of notebook 06, one process each, side by side, each run once however often the sweep is started.

    OUT/sweep.json                      the definition: every point and what it is run with
    OUT/points/<fingerprint>/           one point: params.json, status.json, executed.ipynb, log.txt, run/
    OUT/sweep.csv, OUT/sweep.html       one row a point, in the order of the definition

A point is a dict of `Config` keys (`{"annealing": "monotonic", "seed": 1}`), plus `profile` and `preset`.
All state is in files, so an engine only has to start `run_one` somewhere that sees them: in a process of this
machine, in a Ray task or in a Slurm job. The table is read back from the files in every case.
"""

from __future__ import annotations

import csv
import hashlib
import html
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from lab4_core.errors import Lab4Error, unknown
from lab4_core.paths import NOTEBOOKS, ROOT, replacing, write_text

NOTEBOOK = NOTEBOOKS / "06_train.ipynb"
PARAMETERS = ("profile", "preset", "seed", "minutes")  # of the notebook itself; any other key is an override of Config
RESULTS = ("psnr", "ssim", "repeat_first_psnr", "copy_previous_psnr", "best_epoch", "steps", "parameters",
           "effective_beta")  # fmt: skip
TIMINGS = ("seconds", "wall_seconds")  # last in the table: all before them is the same when a sweep is repeated

Point = dict[str, Any]


# ---------------------------------------------------------------------------------------------- points


def expand(grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Point]:
    """The points of a grid (key -> a value or a list of values; the last key varies fastest) or of a list of them.

    Equal points are kept once. Raises `Lab4Error` for an axis without values or anything that is not a grid.
    """
    grids = [grid] if isinstance(grid, Mapping) else grid
    if isinstance(grids, str) or not all(isinstance(g, Mapping) for g in grids):
        raise Lab4Error(f"sweep {grid!r}: expected a mapping of keys to values, or a list of such mappings")
    points = []
    for one in grids:
        axes = {key: value if isinstance(value, (list, tuple)) else [value] for key, value in one.items()}
        for key, values in axes.items():
            if not len(values):
                raise Lab4Error(f"sweep: {key} = []: expected at least one value")
        points += [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
    return list({_digest(p): p for p in points}.values())


def read_file(path: str | os.PathLike) -> list[Point]:
    """The points of a YAML (or JSON) file: a mapping is a grid, a list is a list of points or grids."""
    import yaml

    try:
        return expand(yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {})
    except OSError as e:
        raise Lab4Error(f"cannot read the sweep {path}: {e.strerror}") from e
    except yaml.YAMLError as e:
        raise Lab4Error(f"the sweep {path} is not YAML: {' '.join(str(e).split())}") from e


def notebook_parameters(point: Point, common: Mapping[str, Any]) -> dict[str, Any]:
    """What notebook 06 is run with at a point. `common` may set any of its parameters; the point wins."""
    known = {k: v for k, v in {**common, **point}.items() if k in PARAMETERS}
    overrides = {**common.get("overrides", {}), **{k: v for k, v in point.items() if k not in PARAMETERS}}
    return {**known, "data": str(common.get("data") or ""), "overrides": overrides}


def fingerprint(params: Mapping[str, Any]) -> str:
    """12 hex digits of what a point runs; where its results go does not count."""
    return _digest({k: v for k, v in params.items() if k != "out"})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


# ------------------------------------------------------------------------------------------- one point


def run_one(
    params: dict[str, Any], folder: str | os.PathLike, notebook: str | os.PathLike = NOTEBOOK, threads: int = 0
) -> dict[str, Any]:
    """Execute `notebook` with `params` in a process of its own and return the point's status.

    The process works in the notebook's folder, uses `threads` cores (0: torch's own choice) and leaves
    params.json, executed.ipynb, log.txt, status.json and the run directory under `folder`. It never raises
    for a notebook that fails: the status says "failed" and why.
    """
    process = _start(params, Path(folder), Path(notebook), threads)
    try:
        process.join()
    except BaseException:
        process.terminate()
        raise
    return _settle(Path(folder), process.exitcode)


def _start(params: dict[str, Any], folder: Path, notebook: Path, threads: int) -> multiprocessing.Process:
    if not notebook.is_file():
        raise Lab4Error(f"no notebook {notebook}: a sweep executes it at every point")
    folder = folder.resolve()
    write_text(folder / "params.json", json.dumps(params, indent=1))
    write_text(folder / "status.json", json.dumps({"status": "running", "pid": os.getpid()}))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    if threads:
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    # A fork server has papermill imported (seconds) once for all points, and forks a process that shares
    # nothing with the caller. Threads would not do: papermill changes the working directory.
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["papermill", __name__])
    process = context.Process(target=_execute, args=(params, folder, notebook.resolve(), env))
    process.start()
    return process


def _execute(params: dict[str, Any], folder: Path, notebook: Path, env: dict[str, str]) -> None:
    """The body of a point's process."""
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its points
    threading.Thread(target=_die_with_parent, daemon=True).start()
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(notebook.parent)
    begin, reason = time.time(), None
    try:
        import papermill

        papermill.execute_notebook(
            str(notebook),
            str(folder / "executed.ipynb"),
            parameters={**params, "out": str(folder / "run")},
            kernel_name="python3",
            language="python",
            cwd=str(notebook.parent),
            progress_bar=False,
        )
    except Exception as e:  # the reason goes into the table, the traceback into executed.ipynb and the log
        import traceback

        traceback.print_exc()
        what, message = getattr(e, "ename", type(e).__name__), getattr(e, "evalue", str(e))
        reason = message if what == "Lab4Error" else f"{what}: {message}"
    write_text(folder / "status.json", json.dumps(_status(folder, reason, time.time() - begin), indent=1))


def _die_with_parent() -> None:
    """A killed sweep must not leave its points running: the next start would run them a second time.
    (The kernel watches this process in the same way.)"""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)


def _status(folder: Path, reason: str | None, wall_seconds: float) -> dict[str, Any]:
    """What the table shows of a point, from the `result.json` its run left."""
    results = sorted((folder / "run").glob("*/result.json"))
    result = json.loads(results[0].read_text(encoding="utf-8")) if results else {}
    status = "failed" if reason or not results else result.get("status", "failed")
    if status != "finished":
        reason = result.get("reason") or reason or f"the notebook ended without a finished run under {folder / 'run'}"
    if len(results) > 1:
        status, reason = "failed", f"{len(results)} runs under {folder / 'run'}: expected one"
    baselines = {f"{k}_psnr": v.get("psnr") for k, v in result.get("baselines", {}).items()}
    values = {**result, **baselines, "wall_seconds": round(wall_seconds, 2)}
    return {
        "status": status,
        "reason": _one_line(reason) if reason else None,
        "run": str(results[0].parent.relative_to(folder)) if results else None,
        **{k: values.get(k) for k in (*RESULTS, *TIMINGS)},
    }


def _one_line(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())[:300]


def _settle(folder: Path, exitcode: int | None) -> dict[str, Any]:
    """The status of a point whose process has ended. One that died without a word is a failure too."""
    status = read_status(folder)
    if status.get("status") in (None, "running"):
        status = {"status": "failed", "reason": f"the process ended without a result (exit code {exitcode}), "
                  f"see {folder / 'log.txt'}"}  # fmt: skip
        write_text(folder / "status.json", json.dumps(status))
    return status


def read_status(folder: str | os.PathLike) -> dict[str, Any]:
    """status.json of a point, {} where there is none."""
    path = Path(folder) / "status.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# --------------------------------------------------------------------------------------------- engines
# An engine runs jobs (the arguments of `run_one`), at most `slots` at once, and yields each one's folder as it ends.

Job = tuple[dict[str, Any], Path, Path, int]


def _local(jobs: Sequence[Job], slots: int, options: Mapping[str, Any]) -> Iterator[Path]:
    """Processes of this machine."""
    waiting, live = list(jobs), {}
    try:
        while waiting or live:
            while waiting and len(live) < slots:
                job = waiting.pop(0)
                process = _start(*job)
                live[process.sentinel] = process, job[1]
            for sentinel in wait(list(live)):
                process, folder = live.pop(sentinel)
                process.join()
                _settle(folder, process.exitcode)
                yield folder
    finally:
        for process, _ in live.values():
            process.terminate()


def _ray(jobs: Sequence[Job], slots: int, options: Mapping[str, Any]) -> Iterator[Path]:
    """Ray tasks, on a cluster of this machine or at `address`."""
    ray = _extra("ray")
    address = options.get("address")
    started = not ray.is_initialized()
    if started:
        local = {} if address else {"num_cpus": slots, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level="error", **local)
    try:
        task = ray.remote(num_cpus=1, max_retries=0)(run_one)
        waiting, live = list(jobs), {}
        while waiting or live:
            while waiting and len(live) < slots:
                job = waiting.pop(0)
                live[task.remote(*job)] = job[1]
            done, _ = ray.wait(list(live), num_returns=1)
            for ref in done:
                folder = live.pop(ref)
                try:
                    ray.get(ref)
                except ray.exceptions.RayError as e:
                    _fail(folder, e)
                yield folder
    finally:
        if started:
            ray.shutdown()


def _slurm(jobs: Sequence[Job], slots: int, options: Mapping[str, Any]) -> Iterator[Path]:
    """Slurm jobs through submitit; with `cluster` "local" or "debug", submitit's own stand-ins for a cluster."""
    submitit = _extra("submitit")
    executor = submitit.AutoExecutor(folder=options["out"] / "slurm", cluster=options.get("cluster"))
    executor.update_parameters(
        name="lab4", timeout_min=options.get("timeout_min") or 240, cpus_per_task=max(1, jobs[0][3])
    )
    if options.get("partition"):
        executor.update_parameters(slurm_partition=options["partition"])
    waiting, live = list(jobs), {}
    try:
        while waiting or live:
            while waiting and len(live) < slots:
                job = waiting.pop(0)
                live[executor.submit(run_one, *job)] = job[1]
            done = [job for job in live if job.done()]
            for job in done:
                folder = live.pop(job)
                if (error := job.exception()) is not None:
                    _fail(folder, error)
                yield folder
            if not done:
                time.sleep(0.5)
    finally:
        for job in live:
            job.cancel()


ENGINES: dict[str, Callable[[Sequence[Job], int, Mapping[str, Any]], Iterator[Path]]] = {
    "local": _local,
    "ray": _ray,
    "slurm": _slurm,
}


def _extra(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError as e:
        raise Lab4Error(f"this engine needs {module}, which is not installed: pip install {module}") from e


def _fail(folder: Path, error: BaseException) -> None:
    """A job lost on its way (a node gone, a time limit): the engine's own message is the reason."""
    if read_status(folder).get("status") in (None, "running"):
        write_text(folder / "status.json", json.dumps({"status": "failed", "reason": _one_line(str(error))}))


# ------------------------------------------------------------------------------------------- the sweep


def run_sweep(
    points: Sequence[Point],
    out: str | os.PathLike,
    common: Mapping[str, Any] | None = None,
    engine: str = "local",
    slots: int = 0,
    notebook: str | os.PathLike = NOTEBOOK,
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run every point that has not finished yet and return the table, one dict a point in the order given.

    common: notebook parameters all points share (profile, preset, data, minutes, seed, overrides).
    slots: points at the same time, each with its share of the cores; 0 is one for every two cores.
    options: of an engine: address (ray), cluster, partition and timeout_min (slurm).
    Raises `Lab4Error` for an unknown engine, no points, or an engine that is not installed; a point that
    fails is a row with its reason.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if not points:
        raise Lab4Error("the sweep has no points: expected at least one, as in --set annealing=cyclical,monotonic")
    out, cores = Path(out).expanduser().resolve(), _cores()
    slots = slots or max(1, cores // 2)
    if slots < 1:
        raise Lab4Error(f"slots = {slots}: expected 1 or more")
    params = [notebook_parameters(point, common or {}) for point in points]
    folders = [out / "points" / fingerprint(p) for p in params]
    write_text(out / "sweep.json", json.dumps({"points": list(points), "common": dict(common or {})}, indent=1))

    todo = {
        folder: (p, folder, Path(notebook), max(1, cores // slots))
        for p, folder in zip(params, folders)
        if read_status(folder).get("status") != "finished"
    }
    done = len(points) - len(todo)
    say(f"sweep: {len(points)} points, {done} finished before, {len(todo)} to run on {engine}, {slots} at a time")
    names = dict(zip(folders, points))
    begin = time.time()
    jobs = ENGINES[engine](list(todo.values()), slots, {**(options or {}), "out": out}) if todo else ()
    for ended, folder in enumerate(jobs, start=1):
        left = (time.time() - begin) / ended * (len(todo) - ended)
        say(f"sweep: {done + ended}/{len(points)}  {_line(names[folder], read_status(folder))}  {_duration(left)} left")
        write_table(table(points, folders), out)
    rows = table(points, folders)
    write_table(rows, out)
    return rows


def table(points: Sequence[Point], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row a point: its keys, how it ended and its results; timings last."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    rows = []
    for point, folder in zip(points, folders):
        status = read_status(folder) or {"status": "waiting"}
        cells = {k: _cell(point.get(k)) for k in keys}
        # a column of the point and one of the result may share a name ("steps"): the point's is what was asked for
        results = {k if k not in cells else f"{k}_done": status.get(k) for k in (*RESULTS, *TIMINGS)}
        rows.append(
            {"point": folder.name, **cells, "status": status["status"], "reason": status.get("reason"), **results}
        )
    return rows


def write_table(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """sweep.csv, and sweep.html with every cell escaped."""
    with replacing(out / "sweep.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    lines = [[*rows[0]], *([_shown(v) for v in row.values()] for row in rows)]
    body = "\n".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in line) + "</tr>"
        for line, tag in zip(lines, ["th", *["td"] * len(rows)])
    )
    write_text(
        out / "sweep.html", f'<!doctype html><meta charset="utf-8"><title>sweep</title><table>\n{body}\n</table>\n'
    )


def _cell(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list, tuple)) else value


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(point: Point, status: Mapping[str, Any]) -> str:
    name = " ".join(f"{k}={_cell(v)}" for k, v in point.items())
    if status.get("status") == "finished":
        return f"{name}: {status['psnr']:.2f} dB"
    return f"{name}: {status.get('status')}: {status.get('reason')}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
