"""One point of a sweep: notebook 06 in a process of its own, and its outcome as files in the point's folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock

from lab4_core.errors import Lab4Error
from lab4_core.paths import NOTEBOOKS, ROOT, write_text
from lab4_core.runlog import checked_result, read_json

NOTEBOOK = NOTEBOOKS / "06_train.ipynb"
RESULTS = ("psnr", "ssim", "repeat_first_psnr", "copy_previous_psnr", "best_epoch", "steps", "parameters",
           "effective_beta")  # fmt: skip
TIMINGS = ("seconds", "wall_seconds")


def run_one(
    params: dict[str, Any],
    folder: str | os.PathLike,
    notebook: str | os.PathLike = NOTEBOOK,
    threads: int = 0,
    minutes: float = 0.0,
) -> dict[str, Any]:
    """Execute `notebook` with `params` in a process of its own and return the point's status.

    The process works in the notebook's folder, uses `threads` cores (0: torch's own choice) and leaves
    params.json, executed.ipynb, log.txt, status.json and the run directory under `folder`. It never raises
    for a notebook that fails, nor for one that takes longer than `minutes` (0: no limit; an execution can hang):
    the status says "failed" and why.
    """
    process = start(params, Path(folder), Path(notebook), threads, minutes)
    try:
        return outcome(process, Path(folder))
    except BaseException:
        process.terminate()
        raise


def start(
    params: dict[str, Any], folder: Path, notebook: Path, threads: int, minutes: float = 0.0, gpus: str = ""
) -> multiprocessing.Process:
    """Start the process of a point. gpus: those it may see, as CUDA_VISIBLE_DEVICES; "" for those of this process."""
    if not notebook.is_file():
        raise Lab4Error(f"no notebook {notebook}: a sweep executes it at every point")
    folder = folder.resolve()
    write_text(folder / "params.json", json.dumps(params, indent=1))
    if read_status(folder).get("status") == "failed":  # an old reason must not pass for a new one
        (folder / "status.json").unlink()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    if threads:
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = gpus
    # A fork server imports papermill (seconds) once for all points and forks processes that share nothing with the
    # caller. Threads would not do: papermill changes the working directory.
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["papermill", __name__])
    process = context.Process(target=_execute, args=(params, folder, notebook.resolve(), env, minutes))
    process.start()
    return process


def _execute(params: dict[str, Any], folder: Path, notebook: Path, env: dict[str, str], minutes: float) -> None:
    """The body of a point's process."""
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its points
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # A killed sweep may have left a Slurm job of this point running: wait for its result instead of repeating it.
    with FileLock(str(folder / "lock")):
        if read_status(folder).get("status") != "finished":
            write_text(folder / "status.json", json.dumps({"status": "running", "pid": os.getpid()}))
            if minutes:
                limit = threading.Timer(60 * minutes, _die_of_time, (folder, minutes))
                limit.daemon = True
                limit.start()
            _papermill(params, folder, notebook)


def _papermill(params: dict[str, Any], folder: Path, notebook: Path) -> None:
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
        traceback.print_exc()
        what, message = getattr(e, "ename", type(e).__name__), getattr(e, "evalue", str(e))
        reason = message if what == "Lab4Error" else f"{what}: {message}"
    write_text(folder / "status.json", json.dumps(_status(folder, reason, time.time() - begin), indent=1))


def _die_with_parent() -> None:
    """A killed sweep must not leave its points running: the next start would run them a second time.
    (The kernel watches this process in the same way. The parent pid would not help: it is the fork server's.)"""
    multiprocessing.parent_process().join()
    os._exit(1)


def _die_of_time(folder: Path, minutes: float) -> None:
    """End a hanging execution, from a thread beside it. What was trained is in the run and resumes from there."""
    settle(folder, f"not finished after {minutes:g} minutes, its time limit; started again, its training continues")
    os._exit(1)


def _status(folder: Path, reason: str | None, wall_seconds: float) -> dict[str, Any]:
    """What the table shows about a point, from the `result.json` that its run left."""
    results = sorted((folder / "run").glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    if done := [path for path in results if _is_finished(path)]:  # not the failures of data since repaired
        results = done
    try:
        result = checked_result(read_json(results[-1]), results[-1]) if results else {}
    except Lab4Error as e:
        result, reason = {}, reason or str(e)
    status = "failed" if reason or not results else result.get("status", "failed")
    if status != "finished":
        reason = result.get("reason") or reason or f"the notebook ended without a finished run under {folder / 'run'}"
    if len(done) > 1:
        status, reason = "failed", f"{len(done)} runs under {folder / 'run'}: expected one"
    baselines = {f"{k}_psnr": v.get("psnr") for k, v in result.get("baselines", {}).items()}
    values = {**result, **baselines, "wall_seconds": round(wall_seconds, 2)}
    return {
        "status": status,
        "reason": one_line(reason) if reason else None,
        "run": str(results[-1].parent.relative_to(folder)) if results else None,
        **{k: values.get(k) for k in (*RESULTS, *TIMINGS)},
    }


def _is_finished(result: Path) -> bool:
    try:
        return read_json(result).get("status") == "finished"
    except Lab4Error:
        return False


def one_line(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())[:300]


def outcome(process: multiprocessing.Process, folder: Path) -> dict[str, Any]:
    """Wait for the process of a point; returns the point's status. One that died silently has failed too."""
    process.join()
    log = folder / "log.txt"
    return settle(folder, f"the process ended without a result (exit code {process.exitcode}), see {log}")


def settle(folder: Path, reason: str) -> dict[str, Any]:
    """The status of a point that has ended: if it left none, it failed for this reason."""
    status = read_status(folder)
    if status.get("status") in (None, "running"):
        status = {"status": "failed", "reason": reason}
        write_text(folder / "status.json", json.dumps(status))
    return status


def read_status(folder: str | os.PathLike) -> dict[str, Any]:
    """status.json of a point, {} if there is none that can be read: such a point is run again."""
    path = Path(folder) / "status.json"
    try:
        status = read_json(path) if path.exists() else {}
    except Lab4Error:
        return {}
    return status if isinstance(status.get("status"), str) else {}
