"""The two sides of a benchmark, on the same weights and inputs: this library, which draws its noise itself, and the
plain loop of `benchmarks/reference.py` in a process of its own, since it would otherwise profit from the library's
allocator settings.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import torch

from lab4_core import accel
from lab4_core.batches import Batch
from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.paths import BENCHMARKS
from lab4_core.presets import load_config
from lab4_core.training import Learner, build_model

SHAPE = (3, 32, 64)
SHAPES = SimpleNamespace(frames=torch.empty(1, *SHAPE), cond=torch.empty(1, *SHAPE))  # clips of which only these count
NARROW = {"kind": "lab", "f_dim": 8, "l_dim": 4, "n_dim": 4, "d_dim": 8}  # a check that it runs, not a measurement


def config(precision: str, device: torch.device, quick: bool) -> Config:
    narrow = {"model": NARROW} if quick else {}
    return load_config("full", "lab", overrides={"precision": precision, "device": str(device), **narrow})


def reference() -> Any:
    """The module benchmarks/reference.py, which is part of the checkout but not of the package."""
    path = BENCHMARKS / "reference.py"
    if not path.is_file():
        raise Lab4Error(f"no {path}: expected the checkout of lab4, whose plain loop is the other side of the ratio")
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seconds_of(f: Callable[[], Any]) -> float:
    """Wall time of a call, including the work it left to a GPU."""
    begin = time.perf_counter()
    f()
    for i in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(i):
            torch.cuda.synchronize(i)
    return time.perf_counter() - begin


class Apart:
    """Calls what `make(*args)` returns, in a process of its own; to be used with `with`."""

    def __init__(self, make: Callable[..., Callable[[], Any]], *args: Any):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_answer, args=(end, make, args), daemon=True)
        self.process.start()
        end.close()  # so that a process that dies is noticed

    def __call__(self) -> None:
        try:
            self.pipe.send(None)
            self.pipe.recv()
        except (EOFError, OSError) as e:
            raise Lab4Error("the process of the plain loop has ended: its own message stands above") from e

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.join()


def _answer(pipe: Any, make: Callable[..., Callable[[], Any]], args: tuple) -> None:
    f = make(*args)
    with suppress(EOFError):
        while True:
            pipe.recv()
            seconds_of(f)  # including the work it leaves to a GPU
            pipe.send(None)


def our_step(cfg: Config, forced: bool, frames: int) -> Callable[[], Any]:
    """An optimizer step of this library on one batch of 2 clips."""
    device, (x, c, _) = accel.pick_device(cfg.device), inputs(cfg, frames)
    weight = torch.full((2, frames - 1), float(forced), device=device)
    weight[:, 0] = 1
    batch = Batch(x, c, weight, forced, float(forced), None, None)
    learner = Learner(cfg, build_model(cfg, SHAPES, device), device)
    return lambda: learner.step(batch, 0, 0.5, 1e-3)


def their_step(cfg: Config, forced: bool, frames: int) -> Callable[[], Any]:
    """The same for the plain loop."""
    plain, (x, c, eps), model = reference(), inputs(cfg, frames), plain_model(cfg)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return lambda: plain.train_step(model, optimizer, x, c, eps, 0.5, forced)


def plain_model(cfg: Config) -> torch.nn.Module:
    device = accel.pick_device(cfg.device)
    accel.pick_precision("fp32", device)  # TF32 would be a different arithmetic
    return build_model(cfg, SHAPES, device).to(memory_format=torch.contiguous_format)


def inputs(cfg: Config, frames: int) -> tuple[torch.Tensor, ...]:
    """Frames, poses and noise of 2 clips, the same in every process."""
    device, rng = accel.pick_device(cfg.device), torch.Generator().manual_seed(0)
    x, c = (torch.rand(2, frames, *SHAPE, generator=rng).to(device) for _ in range(2))
    eps = torch.randn(2, frames - 1, cfg.model.n_dim, *SHAPE[1:], generator=rng).to(device)
    return x, c, eps


def one_by_one(cfg: Config, clips: int, frames: int) -> Callable[[], Any]:
    """The plain loop's rollouts: the first call makes only a few frames, as a warm-up for the second."""
    plain, model, device = reference(), plain_model(cfg), accel.pick_device(cfg.device)
    past, cond = noise_clips(device, clips, frames)
    generator, lengths = torch.Generator(device).manual_seed(0), iter((4, frames))

    def run() -> None:
        some = next(lengths)
        for i in range(clips):
            plain.rollout(model, past[i : i + 1, 0], cond[i : i + 1, :some], generator)

    return run


def noise_clips(on: torch.device, clips: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First frames (clips, 1, C, H, W) and poses (clips, frames, C, H, W), the same in every process."""
    rng = torch.Generator().manual_seed(0)
    return tuple(torch.rand(clips, n, *SHAPE, generator=rng).to(on) for n in (1, frames))
