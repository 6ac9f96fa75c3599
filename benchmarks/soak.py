"""Does training leak? `python -m benchmarks.soak --minutes 60` trains, resumes, evaluates, predicts and draws in a
loop, in one process, as a long notebook session does, and watches the process's memory and open files.

It fails (exit code 1) if either grows after the first rounds: memory beyond both the limit per hour and the slack in
all, open files at all.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, count
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "data": {"kind": "dancer", "clips": 2, "frames": 24, "test_clips": 1}, "model": {"kind": "compact", "width": 8},
    "optimizer": "adamw", "strategies": ["ema", "input_noise", "distant_start"], "windows": "random", "n_frames": 3,
    "batch_size": 2, "steps": 12, "epochs": 3, "eval_frames": 8, "device": "cpu",
}  # fmt: skip
WARM_UP = 4  # rounds in which caches fill and allocators find their size
SLACK_MB = 48.0  # what an allocator may keep without anything leaking


@dataclass(frozen=True)
class Reading:
    seconds: float
    memory_mb: float
    files: int


def read(begin: float) -> Reading:
    """Resident memory and open files of this process, from /proc."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Reading(time.monotonic() - begin, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")))


def one_round(folder: Path, number: int) -> None:
    """What a user does again and again: train, stop half-way, resume, look at the result, predict, hand in."""
    import lab4_core as l4
    from lab4_core import engine, plots
    from lab4_core.config import Config

    cfg = Config.from_dict({**CONFIG, "seed": number, "name": "soak"})
    stopped = engine.stop_requests
    engine.stop_requests = stop_after(5)
    try:
        assert l4.train(cfg, out=folder).result["status"] == "partial"
    finally:
        engine.stop_requests = stopped
    run = l4.train(cfg, out=folder)
    assert run.finished
    data = l4.load_data(cfg)
    l4.evaluate(run, device="cpu")
    clip = data.test[0]
    video = l4.rollout(run, clip.first, clip.cond, device="cpu")
    video._repr_mimebundle_()
    for figure in (plots.plot_training([run]), plots.plot_psnr_per_frame({"run": run.scores()})):
        plots.show(figure, alt="soak").png()
    l4.test(run, out=folder / "test", device="cpu")


def stop_after(steps: int):
    """A stand-in for `engine.stop_requests`: the request comes after this many steps."""

    @contextmanager
    def requests():
        asked = count(1)
        yield lambda: next(asked) >= steps

    return requests


def slope(readings: list[Reading]) -> float:
    """MB an hour: the median slope over all pairs of readings (Theil and Sen), which a single jump does not move."""
    pairs = [
        (b.memory_mb - a.memory_mb) / (b.seconds - a.seconds) * 3600
        for a, b in combinations(readings, 2)
        if b.seconds > a.seconds
    ]
    return statistics.median(pairs) if pairs else 0.0


def judge(readings: list[Reading], mb_per_hour: float) -> list[str]:
    """What grew after the warm-up; empty when nothing did."""
    if len(readings) <= WARM_UP + 1:
        return [f"only {len(readings)} rounds: expected more than {WARM_UP + 1}, raise --minutes"]
    first, *_, last = flat = readings[WARM_UP:]
    grown, rate, found = last.memory_mb - first.memory_mb, slope(flat[-200:]), []
    if grown > SLACK_MB and rate > mb_per_hour:
        found.append(f"memory grew by {grown:.0f} MB, {rate:.0f} MB an hour (limit {mb_per_hour:.0f})")
    if last.files > first.files:
        found.append(f"open files grew from {first.files} to {last.files}")
    return found


def soak(minutes: float, mb_per_hour: float) -> tuple[list[Reading], list[str]]:
    """Run rounds for this many minutes; returns the reading after each, and what grew."""
    import torch

    torch.set_num_threads(1)
    begin, readings = time.monotonic(), []
    while time.monotonic() - begin < 60 * minutes:
        with tempfile.TemporaryDirectory(prefix="lab4-soak-") as folder:
            one_round(Path(folder), len(readings))
        readings.append(read(begin))
        if len(readings) % 10 == 1:
            r = readings[-1]
            print(
                f"soak: {r.seconds / 60:6.1f} min  round {len(readings):4d}  {r.memory_mb:7.1f} MB  {r.files} files",
                flush=True,
            )
    return readings, judge(readings, mb_per_hour)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--mb-per-hour", type=float, default=20.0, help="growth of memory that is no leak yet")
    args = parser.parse_args()
    if not Path("/proc/self/statm").exists():
        print("soak: needs Linux: memory and open files are read from /proc", file=sys.stderr)
        return 2
    readings, found = soak(args.minutes, args.mb_per_hour)
    flat = readings[WARM_UP:]
    if flat:
        print(f"soak: {len(readings)} rounds; after {WARM_UP}: {flat[0].memory_mb:.1f} to {flat[-1].memory_mb:.1f} MB, "
              f"{slope(flat[-200:]):+.1f} MB an hour; {flat[0].files} to {flat[-1].files} files")  # fmt: skip
    for line in found:
        print(f"soak: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
