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
import importlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from lab4_core.errors import Lab4Error, unknown
from lab4_core.paths import replacing, write_text
from lab4_core.sweep_point import NOTEBOOK, RESULTS, TIMINGS, lost, read_status, run_one, settle, start

PARAMETERS = ("profile", "preset", "seed", "minutes")  # of the notebook itself; any other key is an override of Config

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
                process = start(*job)
                live[process.sentinel] = process, job[1]
            for sentinel in wait(list(live)):
                process, folder = live.pop(sentinel)
                process.join()
                settle(folder, process.exitcode)
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
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **local)
        except Exception as e:  # that is what it raises when its node is not up within its own 15 seconds
            raise Lab4Error(f"Ray did not start: {e} (on a busy machine: ray start --head, then --address auto)") from e
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
                    lost(folder, e)
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
                    lost(folder, error)
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
        return importlib.import_module(module)
    except ImportError as e:
        extra = {"submitit": "slurm"}.get(module, module)
        raise Lab4Error(f"the engine needs {module}, which is not installed: pip install 'lab4[{extra}]'") from e


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
