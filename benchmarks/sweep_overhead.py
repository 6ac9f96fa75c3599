"""What a sweep costs beyond its trainings: `python -m benchmarks.sweep_overhead`, on a quiet machine, a few minutes.

It sweeps notebook 06 over seeds at profile smoke, `--slots` points at once, and breaks the time down by what papermill
records for every cell. All in seconds of a slot, so that two slots have two of them in each second of the wall clock:

    kernel start    from papermill's start to the first cell; excluded from the ratio, but reported
    alone           what training alone needs as well: imports, the dataset, the training with its evaluation
    notebook        the other cells
    engine          all the rest: starting and ending processes, writing tables, slots that wait for the last point

overhead = (notebook + engine) / (alone + notebook + engine)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

ALONE = ("import lab4_core", "l4.load_data(", "l4.train(")  # a cell with one of these is what a script needs too


def cells(notebook: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of an executed notebook (its JSON): kernel start, alone, notebook."""

    def at(times: Mapping[str, Any], which: str) -> datetime:
        return datetime.fromisoformat(times[f"{which}_time"])

    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = {"kernel start": 0.0, "alone": 0.0, "notebook": 0.0}
    first = min(at(cell["metadata"]["papermill"], "start") for cell in code)
    found["kernel start"] = (first - at(notebook["metadata"]["papermill"], "start")).total_seconds()
    for cell in code:
        part = "alone" if any(word in "".join(cell["source"]) for word in ALONE) else "notebook"
        times = cell["metadata"]["papermill"]
        found[part] += (at(times, "end") - at(times, "start")).total_seconds()
    return found


def shares(points: Sequence[Mapping[str, float]], wall: float, slots: int) -> dict[str, float]:
    """Sums over the points, the engine's remainder of `slots` x `wall` seconds, and the overhead as a share."""
    total = {key: sum(point[key] for point in points) for key in points[0]}
    total["engine"] = slots * wall - sum(total.values())
    lost = total["notebook"] + total["engine"]
    return {**total, "overhead": lost / (total["alone"] + lost)}


def measure(points: int, slots: int, show: bool, folder: Path) -> dict[str, float]:
    """Sweep `points` seeds in a new folder. Raises `RuntimeError` if one does not finish."""
    import nbformat

    from lab4_core.data import load_data
    from lab4_core.presets import load_config
    from lab4_core.sweeps.sweep import run_sweep

    load_data(load_config("smoke", "compact"))  # rendered once and cached, so that no point pays for it
    begin = time.monotonic()
    common = {"profile": "smoke", "preset": "compact"}
    rows = run_sweep([{"seed": seed} for seed in range(points)], folder, common, slots=slots, show=show)
    wall = time.monotonic() - begin
    failed = [row["reason"] for row in rows if row["status"] != "finished"]
    if failed:
        raise RuntimeError(f"{len(failed)} points failed: {failed[0]}")
    executed = (nbformat.read(folder / "points" / row["point"] / "executed.ipynb", 4) for row in rows)
    return {**shares([cells(notebook) for notebook in executed], wall, slots), "wall": wall}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="with the pictures of every point")
    parser.add_argument("--limit", type=float, default=0.1, help="exit code 1 above this overhead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lab4-overhead-") as folder:
        found = measure(args.points, args.slots, args.show, Path(folder))
    print(f"{args.points} points, {args.slots} at a time: {found['wall']:.1f} s")
    for key in ("kernel start", "alone", "notebook", "engine"):
        print(f"{key:14s}{found[key]:8.1f} s, {found[key] / args.points:6.2f} s a point")
    print(f"overhead {found['overhead']:.1%} (without kernel start)")
    return int(found["overhead"] > args.limit)


if __name__ == "__main__":
    sys.exit(main())
