"""Sweeps: many runs of notebook 06, one process each, in parallel, each run once however often the sweep is started.

    OUT/sweep.json                      the definition: every point and what all share
    OUT/points/<fingerprint>/           one point: params.json, status.json, executed.ipynb, log.txt, run/
    OUT/sweep.csv, OUT/sweep.html       one row per point, in the order of the definition
    OUT/sweep.parquet                   the same with column types, if pyarrow is installed

A point is a dict of `Config` keys (`{"annealing": "monotonic", "seed": 1}`), plus `profile` and `preset`.
All state is in files, wherever `engines.py` starts the points, and the table is always read back from them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab4_core.config import Config, layer
from lab4_core.errors import Lab4Error, unknown
from lab4_core.paths import write_text
from lab4_core.runlog import of_other_code, owning, read_json
from lab4_core.sweeps.engines import ENGINES, local_gpus
from lab4_core.sweeps.point import NOTEBOOK, read_status
from lab4_core.sweeps.table import cell, cell_text, table, write_parquet, write_table
from lab4_core.sweeps.watch import watching

PARAMETERS = ("profile", "preset", "seed", "minutes")  # of the notebook itself; any other key is an override of Config

MOST_POINTS = 10_000

Point = dict[str, Any]


# ---------------------------------------------------------------------------------------------- points


def expand(grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Point]:
    """The points of a grid (key -> a value or a list of values; the last key varies fastest) or of a list of them.

    Equal points are kept once. Raises `Lab4Error` for an axis without values or anything that is not a grid.
    """
    grids = [grid] if isinstance(grid, Mapping) else grid
    if not isinstance(grids, (list, tuple)) or not all(isinstance(g, Mapping) for g in grids):
        raise Lab4Error(f"sweep {grid!r}: expected a mapping of keys to values, or a list of such mappings")
    points = []
    for one in grids:
        axes = {key: value if isinstance(value, (list, tuple)) else [value] for key, value in one.items()}
        for key, values in axes.items():
            if not isinstance(key, str):
                raise Lab4Error(f"sweep: key {key!r}: expected the name of a field of the configuration")
            if not len(values):
                raise Lab4Error(f"sweep: {key} = []: expected at least one value")
        if (count := math.prod(map(len, axes.values()))) > MOST_POINTS:
            raise Lab4Error(f"sweep: {count} points: expected at most {MOST_POINTS}")
        points += [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
    return list({_digest(p): p for p in points}.values())


def read_file(path: str | os.PathLike) -> list[Point]:
    """The points of a YAML (or JSON) file: a mapping is a grid, a list is a list of points or grids."""
    grid = read_yaml(path)
    return expand({} if grid is None else grid)


def read_yaml(path: str | os.PathLike) -> Any:
    """What a YAML file holds. Raises `Lab4Error` for a file that cannot be read or is not YAML."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise Lab4Error(f"cannot read the sweep {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise Lab4Error(f"the sweep {path} is not YAML: no plain text at byte {e.start}") from e
    try:
        value = yaml.safe_load(text)
        value = json.loads(json.dumps(value, default=str))  # refuses an alias to itself, which is YAML; makes keys text
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as e:
        raise Lab4Error(f"the sweep {path} is not YAML of plain values: {' '.join(str(e).split())}") from e
    return value


def notebook_parameters(point: Point, common: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of notebook 06 at a point. `common` may set any of them; the point takes precedence."""
    known = {k: v for k, v in {**common, **point}.items() if k in PARAMETERS}
    overrides = layer(common.get("overrides", {}), {k: v for k, v in point.items() if k not in PARAMETERS})
    if isinstance(overrides.get("strategies"), (list, tuple)):
        overrides["strategies"] = [_found_from_anywhere(strategy) for strategy in overrides["strategies"]]
    return {**known, "data": str(common.get("data") or ""), "overrides": overrides}


def _found_from_anywhere(strategy: Any) -> Any:
    """A strategy with the absolute path of the file it names: a point runs in the folder of its notebook."""
    file = strategy.get("weights") if isinstance(strategy, dict) else None
    return strategy | {"weights": os.path.abspath(file)} if file and os.path.isfile(str(file)) else strategy


def fingerprint(params: Mapping[str, Any]) -> str:
    """12 hex digits that identify what a point runs, wherever its results go."""
    return _digest({k: v for k, v in params.items() if k != "out"})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


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
    show: bool = False,
) -> list[dict[str, Any]]:
    """Run every point that has not finished yet and return the table, one dict per point in the order given.

    common: notebook parameters that all points share (profile, preset, data, minutes, seed, overrides).
    slots: points run at once, each with its share of the cores; 0: one per core. A point then has one thread: small
    models gain little from a second, and on a busy machine threads wait for each other.
    options: timeout_min, the minutes after which a point counts as failed (4 hours on Slurm, a day elsewhere); gpus,
    how many each point has to itself (0: none is reserved, on this machine all points see all of them), which on this
    machine also limits the slots; and per engine: address (ray), cluster and partition (slurm).
    show: draw the curves and moving pictures of notebook 06 at every point; they change no result.
    Raises `Lab4Error` for an unknown engine, no points, an engine that is not installed, or a folder that another
    sweep is using; a point that fails is a row with its reason.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if not points:
        raise Lab4Error("the sweep has no points: expected at least one, as in --set annealing=cyclical,monotonic")
    out, cores = Path(out).expanduser().resolve(), _cores()
    asked = {"gpus": 0} | {k: v for k, v in (options or {}).items() if v is not None}
    slots = _slots(slots, cores, asked["gpus"], engine)
    minutes = asked.get("timeout_min") or (240 if engine == "slurm" else 24 * 60)
    if minutes < 0:
        raise Lab4Error(f"timeout_min = {minutes}: expected minutes, more than 0")
    params = [notebook_parameters(point, common or {}) for point in points]
    folders = [out / "points" / fingerprint(p) for p in params]
    asked |= {"minutes": minutes, "out": out}
    with owning(out):
        write_text(out / "sweep.json", json.dumps({"points": list(points), "common": dict(common or {})}, indent=1))
        measured = {folder: found for p, folder in zip(params, folders) if (found := _measured(folder, p))}
        if stale := {folder for folder, found in measured.items() if set_aside(folder, *found)}:
            say(f"sweep: {len(stale)} points were measured on other data than lie there now: they run again")
        if old := sum(of_other_code(*found) for folder, found in measured.items() if folder not in stale):
            say(f"sweep: note: {old} points were trained before the code of their parts changed; they are kept: delete "
                f"their folders in {out / 'points'} to run them again")  # fmt: skip
        todo = {
            folder: ({**p, "show": show}, folder, Path(notebook), max(1, cores // slots), minutes)
            for p, folder in zip(params, folders)
            if read_status(folder).get("status") != "finished"
        }
        done = len(points) - len(todo)
        say(f"sweep: {len(points)} points, {done} finished before, {len(todo)} to run on {engine}, {slots} at a time")
        names = dict(zip(folders, _names(points)))
        write_table(table(points, folders), out)  # what was measured before can be read while the rest runs
        begin = time.time()
        jobs = ENGINES[engine](list(todo.values()), slots, asked) if todo else ()
        with watching({folder: names[folder] for folder in todo}, say):
            for ended, folder in enumerate(jobs, start=1):
                left = _duration((time.time() - begin) / ended * (len(todo) - ended))
                outcome = _outcome(read_status(folder))
                say(f"sweep: {done + ended}/{len(points)}  {names[folder]}: {outcome}  {left} left")
                write_table(table(points, folders), out)
        rows = table(points, folders)
        write_table(rows, out)
    if importlib.util.find_spec("pyarrow"):
        write_parquet(rows, out)
    return rows


def set_aside(folder: Path, result: Mapping[str, Any], config: Config) -> bool:
    """Whether a finished point was measured on data that have changed since. Its run is then kept under another name,
    run-<digest of its data>, and the point counts as not run."""
    from lab4_core.data import load_data  # needs torch and the frames: only if there is something to compare

    trained = (result.get("data") or {}).get("digest")
    try:
        if not trained or load_data(config).digest == trained:
            return False
    except Lab4Error:  # if the data were moved away, the numbers are kept
        return False
    os.replace(folder / "run", folder / f"run-{trained}")
    (folder / "status.json").unlink()
    return True


def _measured(folder: Path, params: Mapping[str, Any]) -> tuple[dict[str, Any], Config] | None:
    """The result of a finished point and its configuration; None for any other, or if the run was deleted."""
    status = read_status(folder)
    if status.get("status") != "finished":
        return None
    from lab4_core.presets import load_config

    named = (params.get("profile", "smoke"), params.get("preset", "compact"), params["data"] or None)
    try:
        return read_json(folder / str(status.get("run")) / "result.json"), load_config(*named, params["overrides"])
    except Lab4Error:
        return None


def _names(points: Sequence[Point]) -> list[str]:
    """What tells each point from the others; all its keys if there is only one."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    told = [k for k in keys if len({cell_text(point.get(k)) for point in points}) > 1] or keys
    return [" ".join(f"{k}={cell(point[k])}" for k in told if k in point) for point in points]


def _outcome(status: Mapping[str, Any]) -> str:
    if status.get("status") == "finished":
        return f"{status['psnr']:.2f} dB"
    return f"{status.get('status')}: {status.get('reason')}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _slots(slots: int, cores: int, gpus: int, engine: str) -> int:
    """How many points run at once, from what was requested and what there is."""
    if slots < 0 or gpus < 0:
        raise Lab4Error(f"slots = {slots}, gpus = {gpus}: expected 0 or more")
    if not gpus or engine != "local":
        return slots or cores
    if len(local_gpus()) < gpus:
        raise Lab4Error(f"gpus = {gpus}: this machine has {len(local_gpus())} that may be used")
    most = len(local_gpus()) // gpus
    return min(slots or most, most)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
