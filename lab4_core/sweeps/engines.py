"""Where the points of a sweep run: processes on this machine, Ray tasks, or Slurm jobs.

An engine runs jobs (the arguments of `run_one`), at most `slots` at once, and yields each one's folder as it ends. All
state is in files, so an engine only has to start `run_one` where they are visible.
"""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from lab4_core.errors import Lab4Error
from lab4_core.sweeps.point import one_line, outcome, run_one, settle, start

RAY_ATTEMPTS = 2
Job = tuple[dict[str, Any], Path, Path, int, float]


def _local(jobs: Sequence[Job], slots: int, options: Mapping[str, Any]) -> Iterator[Path]:
    """Processes on this machine. With `gpus`, each slot has that many to itself."""
    waiting, live = list(jobs), {}
    each, devices = options["gpus"], local_gpus() if options["gpus"] else []
    free = [",".join(devices[i * each : (i + 1) * each]) for i in range(slots)]
    try:
        while waiting or live:
            while waiting and free:
                job, own = waiting.pop(0), free.pop(0)
                process = start(*job, gpus=own)
                live[process.sentinel] = process, job[1], own
            for sentinel in wait(list(live)):
                process, folder, own = live.pop(sentinel)
                outcome(process, folder)
                free.append(own)
                yield folder
    finally:
        for process, _, _ in live.values():
            process.terminate()


def local_gpus() -> list[str]:
    """The GPUs of this machine that may be used, as `CUDA_VISIBLE_DEVICES` names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _ray(jobs: Sequence[Job], slots: int, options: Mapping[str, Any]) -> Iterator[Path]:
    """Ray tasks, on a cluster started here or at `address`."""
    ray = _extra("ray")
    address = options.get("address")
    started = not ray.is_initialized()
    if started:
        # "local": without an address Ray would join any cluster that runs here, and then refuse num_cpus
        local = {} if address else {"num_cpus": slots, "include_dashboard": False}
        for attempt in range(RAY_ATTEMPTS):
            try:
                ray.init(address=address or "local", log_to_driver=False, logging_level="error", **local)
                break
            except Exception as e:  # what Ray raises when its node is not up within its own 30 seconds
                ray.shutdown()
                if address or attempt + 1 == RAY_ATTEMPTS:
                    raise Lab4Error(
                        f"Ray did not start: {e} (on a busy machine: ray start --head, then --address auto)"
                    ) from e
    try:
        gpus, there = options["gpus"], ray.cluster_resources().get("GPU", 0)
        if gpus > there:
            raise Lab4Error(f"gpus = {gpus}: the Ray cluster has {there:g}; a point would wait for ever")
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(run_one)
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
                    settle(folder, one_line(str(e)))
                yield folder
    finally:
        if started:
            ray.shutdown()


def _slurm(jobs: Sequence[Job], slots: int, options: Mapping[str, Any]) -> Iterator[Path]:
    """Slurm jobs through submitit; with `cluster` "local" or "debug", submitit's own stand-ins for a cluster."""
    submitit = _extra("submitit")
    executor = submitit.AutoExecutor(folder=options["out"] / "slurm", cluster=options.get("cluster"))
    executor.update_parameters(name="lab4", timeout_min=math.ceil(options["minutes"]) + 5, cpus_per_task=jobs[0][3])
    asked = {"slurm_partition": options.get("partition"), "gpus_per_node": options["gpus"]}
    executor.update_parameters(**{k: v for k, v in asked.items() if v})
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
                    settle(folder, one_line(str(error)))
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
