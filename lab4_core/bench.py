"""Speed as a ratio: this library against the plain loop of `benchmarks/reference.py`, measured by turns in one run.

A time alone says more about the machine than about the code. Each row is the median of the ratios of neighbouring
measurements, with their spread, on the same weights, inputs and noise; whether it is the same mathematics is
held by tests/test_models.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lab4_core import accel
from lab4_core.errors import Lab4Error
from lab4_core.free_running import rollout
from lab4_core.models.base import VideoPredictor
from lab4_core.paths import BENCHMARKS, write_text
from lab4_core.presets import load_config
from lab4_core.training import Batch, Learner, build_model

Row = dict[str, Any]


def reference() -> Any:
    """The module benchmarks/reference.py, which belongs to the checkout and not to the package."""
    path = BENCHMARKS / "reference.py"
    if not path.is_file():
        raise Lab4Error(f"no {path}: expected the checkout of lab4, whose plain loop is the other side of the ratio")
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_turns(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> Row:
    """Time the two alternately, after one warm-up each. Returns medians in seconds, the ratio and its range."""
    pairs = []
    for i in range(repeats + 1):
        times = []
        for f in (ours, theirs):
            begin = time.perf_counter()
            f()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        if i:
            pairs.append(times)
    ratios = [b / a for a, b in pairs]
    return {
        "what": name,
        "seconds": statistics.median(a for a, _ in pairs),
        "reference_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "repeats": repeats,
    }


def training_step(forced: bool, device: torch.device, frames: int, repeats: int) -> Row:
    """The lab preset's optimizer step on a batch of 2 clips."""
    plain = reference()
    shape = (3, 32, 64)
    data = _Shapes(shape)
    cfg = load_config("full", "lab", overrides={"precision": "fp32"})
    torch.manual_seed(0)
    x, c = torch.rand(2, frames, *shape, device=device), torch.rand(2, frames, *shape, device=device)
    weight = torch.full((2, frames - 1), float(forced), device=device)
    weight[:, 0] = 1
    batch = Batch(x, c, weight, forced, float(forced), None, None)
    learner = Learner(cfg, build_model(cfg, data, device), device)
    other = build_model(cfg, data, device).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3)
    eps = torch.randn(2, frames - 1, *learner.model.latent_shape, device=device)
    return by_turns(
        f"training step, {'teacher-forced' if forced else 'free-running'}, 2 x {frames} frames, lab preset, fp32",
        lambda: learner.step(batch, 0, 0.5, 1e-3),
        lambda: plain.train_step(other, optimizer, x, c, eps, 0.5, forced),
        repeats,
    )


def rollouts(device: torch.device, frames: int, clips: int, repeats: int) -> Row:
    """Test clips predicted in one batch, against one after the other."""
    plain = reference()
    cfg = load_config("full", "lab")
    model: VideoPredictor = build_model(cfg, _Shapes((3, 32, 64)), device).eval()
    other = build_model(cfg, _Shapes((3, 32, 64)), device).to(memory_format=torch.contiguous_format)
    torch.manual_seed(0)
    past, cond = torch.rand(clips, 1, 3, 32, 64, device=device), torch.rand(clips, frames, 3, 32, 64, device=device)
    generator = torch.Generator(device).manual_seed(0)

    def one_by_one() -> None:
        for i in range(clips):
            plain.rollout(other, past[i : i + 1, 0], cond[i : i + 1], generator)

    return by_turns(f"rollout of {clips} clips of {frames} frames, lab preset, fp32",
                    lambda: rollout(model, past, cond), one_by_one, repeats)  # fmt: skip


def start_up(code: str, name: str) -> Row:
    """Seconds a fresh interpreter takes for something, the best of three."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return {"what": name, "seconds": min(times), "repeats": 3}


def run_bench(json_path: str | os.PathLike | None = None, quick: bool = False, device: str = "auto") -> dict[str, Any]:
    """Measure everything and print one table; `json_path` keeps it, with the device named. quick: short clips,
    one repeat: a check that it runs, not a measurement."""
    on = accel.pick_device(device)
    frames, long, repeats = (4, 8, 1) if quick else (16, 64, 5)
    rows: list[Row] = []
    print(f"{'':70s}  seconds  reference  ratio")
    for measure in (
        lambda: training_step(False, on, frames, repeats),
        lambda: training_step(True, on, frames, repeats),
        lambda: rollouts(on, long, 5, max(1, repeats - 2)),
        lambda: start_up("import lab4_core", "import lab4_core"),
        lambda: start_up("import lab4_core.cli as c; c.main(['--help'])", "lab4 --help"),
    ):
        row = measure()
        rows.append(row)
        ratio = f"{row['reference_seconds']:9.3f}  {row['ratio']:4.2f}x" if "ratio" in row else ""
        print(f"{row['what']:70s} {row['seconds']:8.3f}  {ratio}", flush=True)
    found = {"device": accel.describe(on), "torch": torch.__version__, "cores": os.cpu_count(), "quick": quick,
             "rows": rows}  # fmt: skip
    if json_path:
        write_text(Path(json_path), json.dumps(found, indent=1) + "\n")
    return found


class _Shapes:
    """Stands in for clips where only their shapes are asked for."""

    def __init__(self, shape: tuple[int, ...]):
        self.frames = self.cond = torch.empty(1, *shape)
