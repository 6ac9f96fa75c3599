"""Speed as a ratio: this library against the plain loop of `benchmarks/reference.py`, measured alternately in one run.

A time alone says more about the machine than about the code. Each row is the median of the ratios of neighbouring
measurements, with their spread, on the same weights and inputs; tests/test_paths.py checks that it is the same
mathematics, on the same noise too.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lab4_core import accel
from lab4_core.batches import make_batch
from lab4_core.bench.sides import SHAPES, Apart, config, noise_clips, one_by_one, our_step, seconds_of, their_step
from lab4_core.clock import Clock
from lab4_core.data import Clips, load_data
from lab4_core.free_running import rollout
from lab4_core.paths import write_text
from lab4_core.presets import load_config
from lab4_core.training import build_model

Row = dict[str, Any]


def arithmetics(on: torch.device) -> dict[str, torch.dtype]:
    """fp32, and this machine's default if that is another: one that it only emulates would take minutes."""
    default = accel.pick_precision("auto", on)
    return {"fp32": torch.float32} | ({} if default == torch.float32 else {"auto": default})


def by_turns(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> Row:
    """Time the two alternately, after one warm-up each. Returns medians in seconds, the median ratio and its range."""
    pairs = [(seconds_of(ours), seconds_of(theirs)) for _ in range(repeats + 1)][1:]
    ratios = [b / a for a, b in pairs]
    return {
        "what": name,
        "seconds": statistics.median(a for a, _ in pairs),
        "reference_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "repeats": repeats,
    }


def training_step(forced: bool, precision: str, on: torch.device, frames: int, repeats: int, quick: bool) -> Row:
    """The lab preset's optimizer step, and its GFLOP/s, which count the operations of the plain loop."""
    cfg, how = config(precision, on, quick), "teacher-forced" if forced else "free-running"
    with Apart(their_step, cfg, forced, frames) as theirs:
        ours = our_step(cfg, forced, frames)
        row = by_turns(f"training step, {how}, 2 x {frames} frames, {precision}", ours, theirs, repeats)
    flops = gflop_of(their_step(cfg, forced, 2)) * (frames - 1)
    return row | {"gflops": flops / row["seconds"], "reference_gflops": flops / row["reference_seconds"]}


def gflop_of(f: Callable[[], Any]) -> float:
    """Floating-point operations of a call, in units of 1e9."""
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward_flop}
    ) as counter:
        f()
    return counter.get_total_flops() / 1e9


def _backward_flop(grad, x, w, *args, out_shape) -> int:
    """Of the shapes of a convolution's backward pass: the gradients of its input and of its weights cost what it costs
    itself. PyTorch's own count takes a grouped convolution for a dense one there."""
    wanted = args[-1]
    return 2 * math.prod(grad) * math.prod(w[1:]) * sum(wanted[:2])


def peak_memory(on: torch.device, frames: int, quick: bool) -> list[Row]:
    """Peak memory of three free-running steps with the prediction detached, each side in a fresh process, fp32: of the
    whole process, and what the steps add to PyTorch, the weights and whatever else is there before the first."""
    (ours, our_steps), (theirs, their_steps) = (_peak(side, on, frames, quick) for side in (0, 1))
    of = f"free-running, detached, 2 x {frames} frames, fp32 (MB)"
    return [
        {"what": f"memory of a training step, {of}", "repeats": 1} | _ratio(our_steps, their_steps),
        {"what": f"peak memory of the process, {of}", "repeats": 1} | _ratio(ours, theirs),
    ]


def _ratio(ours: float, theirs: float) -> Row:
    return {"megabytes": ours, "reference_megabytes": theirs, "ratio": theirs / ours}


def _peak(side: int, on: torch.device, frames: int, quick: bool) -> tuple[float, float]:
    code = f"from lab4_core.bench.speed import print_peak; print_peak({side}, {str(on)!r}, {frames}, {quick})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    peak, of_the_steps = map(float, done.stdout.split())
    return peak, of_the_steps


def print_peak(side: int, device: str, frames: int, quick: bool) -> None:
    """To run in a process of its own: print its peak memory after three steps of a side (0 ours, 1 the plain loop), and
    by how much they raised it, both in MB."""
    step = (our_step, their_step)[side](config("fp32", accel.pick_device(device), quick), False, frames)
    before = _most_memory(device)
    for _ in range(3):
        step()
    peak = _most_memory(device)
    print(peak, peak - before)


def _most_memory(device: str) -> float:
    """The peak memory of this process so far, in MB; on a GPU, the peak there."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved(device) / 1e6
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: its ru_maxrss would start at the peak of the parent process
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def rollouts(on: torch.device, frames: int, clips: int, used: dict[str, torch.dtype], quick: bool) -> list[Row]:
    """Test clips predicted in one batch, one row per arithmetic, against one clip after the other: once each, since
    they are long, after a warm-up of a few frames."""
    cfg = config("fp32", on, quick)
    model, (past, cond) = build_model(cfg, SHAPES, on).eval(), noise_clips(on, clips, frames)
    with Apart(one_by_one, cfg, clips, frames) as plain:
        plain()  # a warm-up
        theirs, rows = seconds_of(plain), []
    for precision, dtype in used.items():
        accel.pick_precision(precision, on)  # and whether TF32 is allowed
        rollout(model, past, cond[:, :4], dtype=dtype)
        ours = seconds_of(lambda dtype=dtype: rollout(model, past, cond, dtype=dtype))
        rows.append({"what": f"rollout of {clips} clips of {frames} frames, {precision}", "seconds": ours,
                     "reference_seconds": theirs, "ratio": theirs / ours, "repeats": 1})  # fmt: skip
    return rows


def data_of_a_step(step_seconds: float, on: torch.device, frames: int, repeats: int) -> Row:
    """Making a batch once the dataset is loaded, and its share of a training step (and so of an epoch)."""
    cfg = load_config("full", "lab", overrides={
        "data": {"kind": "dancer", "clips": 2, "frames": 64, "test_clips": 0}, "n_frames": frames, "shuffle": True,
    })  # fmt: skip
    clips = load_data(cfg).train
    clips = Clips(clips.frames.to(on), clips.cond.to(on), clips.starts)
    clock = Clock(cfg, clips.spans)
    times = [
        seconds_of(lambda i=i: make_batch(cfg, clips, clock.at(i, 0.0), i, False)) for i in range(4 * repeats + 1)
    ][1:]
    seconds = statistics.median(times)
    return {"what": f"data of a step, 2 x {frames} frames", "seconds": seconds, "share": seconds / step_seconds,
            "repeats": len(times)}  # fmt: skip


def peak(what: str, dtype: torch.dtype, on: torch.device, repeats: int, quick: bool) -> Row:
    """The best that this machine reaches in a 3x3 convolution or a matrix product (GFLOP/s)."""
    n = 64 if quick else 256
    if what == "conv 3x3":
        x = torch.randn(16, n, 32, 64, device=on, dtype=dtype).to(memory_format=torch.channels_last)
        w = torch.randn(n, n, 3, 3, device=on, dtype=dtype).to(memory_format=torch.channels_last)
        flops, f = 2 * 16 * 32 * 64 * n * n * 9, lambda: torch.nn.functional.conv2d(x, w, padding=1)
    else:
        a, b = (torch.randn(8 * n, 8 * n, device=on, dtype=dtype) for _ in range(2))
        flops, f = 2 * (8 * n) ** 3, lambda: a @ b
    calls = 50 if on.type == "cuda" else 1  # in a row: one is over in the time that it takes to launch and to wait
    with torch.no_grad():
        times = [seconds_of(lambda: [f() for _ in range(calls)]) / calls for _ in range(3 * repeats)]
    return {"what": f"peak, {what}, {str(dtype).removeprefix('torch.')}", "seconds": min(times),
            "gflops": flops / min(times) / 1e9, "repeats": len(times)}  # fmt: skip


def start_up(code: str, name: str, repeats: int) -> Row:
    """Seconds that a fresh interpreter takes to run `code`, the best of `repeats`."""
    run = [sys.executable, "-c", code]
    times = [seconds_of(lambda: subprocess.run(run, check=True, stdout=subprocess.DEVNULL)) for _ in range(repeats)]
    return {"what": name, "seconds": min(times), "repeats": repeats}


def run_bench(json_path: str | os.PathLike | None = None, quick: bool = False, device: str = "auto") -> dict[str, Any]:
    """Measure everything and print one table; `json_path` stores it, with the device named. quick: a narrow model,
    short clips, one repeat: a check that it runs, not a measurement."""
    on = accel.pick_device(device)
    frames, long, repeats = (4, 8, 1) if quick else (16, 630, 5)
    rows: list[Row] = []
    print(HEADER, flush=True)

    def add(row: Row) -> Row:
        rows.append(row)
        print(line(row), flush=True)
        return row

    used = arithmetics(on)
    accel.pick_precision("fp32", on)  # the peak of fp32 is not that of TF32
    for what in ("conv 3x3", "matmul"):
        for dtype in used.values():
            add(peak(what, dtype, on, repeats, quick))
    for precision in used:
        for forced in (False, True):
            step = add(training_step(forced, precision, on, frames, repeats, quick))
    for row in peak_memory(on, frames, quick):
        add(row)
    for row in rollouts(on, long, 5, used, quick):
        add(row)
    add(data_of_a_step(step["seconds"], on, frames, repeats))
    add(start_up("import lab4_core", "import lab4_core", min(3, repeats)))
    add(start_up("import lab4_core.cli as c; c.main(['--help'])", "lab4 --help", min(3, repeats)))
    found = {"device": accel.describe(on), "auto": str(accel.pick_precision("auto", on)).removeprefix("torch."),
             "torch": torch.__version__, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "quick": quick,
             "rows": rows}  # fmt: skip
    if json_path:
        write_text(Path(json_path), json.dumps(found, indent=1) + "\n")
    return found


HEADER = f"{'':60s} {'ours':>10s} {'reference':>10s} {'ratio':>7s}  range        GFLOP/s"


def cells(row: Row) -> list[str]:
    """A row as text: what, ours, the reference's, their ratio, its range, GFLOP/s; empty if there is none."""
    unit = "megabytes" if "megabytes" in row else "seconds"
    number = "{:.0f} MB" if unit == "megabytes" else "{:.4f} s" if row[unit] < 0.1 else "{:.3f} s"
    ratio = f"{row['ratio']:.2f}x" if "ratio" in row else f"{row['share']:.2%}" if "share" in row else ""
    spread = "{:.2f}..{:.2f}".format(*row["ratio_range"]) if "ratio_range" in row else ""
    theirs = number.format(row[f"reference_{unit}"]) if f"reference_{unit}" in row else ""
    gflops = f"{row['gflops']:.0f}" if "gflops" in row else ""
    return [row["what"], number.format(row[unit]), theirs, ratio, spread, gflops]


def line(row: Row) -> str:
    return "{:60s} {:>10s} {:>10s} {:>7s}  {:12s} {:>7s}".format(*cells(row))
