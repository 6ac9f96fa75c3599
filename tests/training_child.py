"""Training in processes that can be killed: forked from a server that has torch imported, so one costs milliseconds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
# torch._dynamo: the optimizers import it, a thousand files, of which each child would compile its own copy
PARTS = ["engine", "models", "data", "optimizers", "schedules", "teacher_forcing", "strategies"]
CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "training_child", *(f"lab4_core.{p}" for p in PARTS)])

MEMORY = Path("/dev/shm")  # a kill needs no disk, and one that is slow to sync makes minutes of seconds

DATA = {"kind": "dancer", "clips": 2, "frames": 16, "test_clips": 0, "height": 16, "width": 32}
TINY: dict[str, Any] = {
    "data": DATA, "optimizer": {"kind": "adamw", "lr": 2e-3}, "lr_schedule": {"kind": "cosine", "unit": "step"},
    "annealing": {"kind": "cyclical", "cycles": 2, "unit": "step"}, "beta": 1e-4, "n_frames": 3, "batch_size": 2,
    "eval_frames": 6, "epochs": 3, "steps": 40, "device": "cpu",
}  # fmt: skip
# A registered model joins every test of resuming by a line here: widths so small that a step takes milliseconds.
MODELS: dict[str, dict[str, Any]] = {
    "compact": {"model": {"kind": "compact", "width": 8, "z_dim": 2}, "windows": "random",
                "optimizer": {"kind": "muon", "lr": 5e-3},
                "strategies": ["ema", "input_noise", "distant_start", "moved_person"]},
    "lab": {"model": {"kind": "lab", "f_dim": 8, "l_dim": 4, "n_dim": 4, "d_dim": 8}, "shuffle": True,
            "optimizer": {"kind": "adam", "lr": 1e-3}},
    "svg": {"model": {"kind": "svg", "width": 4, "g_dim": 6, "z_dim": 3, "rnn_size": 8, "prior": "learned"},
            "data": {"kind": "robot", "clips": 8, "val_clips": 1, "test_clips": 0, "frames": 8, "height": 16,
                     "width": 16}, "n_past": 2, "n_frames": 4, "shuffle": True},
}  # fmt: skip


def train(values: dict[str, Any], out: str, die_at: int = -1, save_seconds: float = 0.0, begun: Any = None) -> None:
    """The body of a child. die_at: kill -9 when step number `die_at` (from 0) is about to begin. save_seconds: between
    checkpoints inside an epoch; 0 is one after every step. begun: a connection that is closed when the first step is
    about to begin."""
    log = os.open(Path(out).with_name(f"{Path(out).name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch

    from lab4_core import engine
    from lab4_core.config import Config

    torch.set_num_threads(1)
    if values.get("device", "cpu") != "cpu":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # or cuBLAS is not deterministic
        torch.use_deterministic_algorithms(True)
    engine.SAVE_SECONDS = save_seconds
    step = engine.Learner.step

    def dying(self, batch, number, *rest):
        if number == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if begun is not None:
            begun.close()
        return step(self, batch, number, *rest)

    engine.Learner.step = dying
    engine.train(Config.from_dict(values), out=out)


def start(*args: Any, **kwargs: Any) -> multiprocessing.Process:
    process = CONTEXT.Process(target=train, args=args, kwargs=kwargs)
    process.start()
    return process


def finish(*args: Any, **kwargs: Any) -> int:
    """Run to the end; the exit code, -9 when it killed itself."""
    process = start(*args, **kwargs)
    process.join(300)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"the training hung: {args[0]}")
    return process.exitcode


def said(out: Path) -> str:
    """What the children of a folder printed."""
    with contextlib.suppress(OSError):
        return out.with_name(f"{out.name}.log").read_text()[-3000:]
    return ""
