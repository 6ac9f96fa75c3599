"""The report: train the annealing types, compare them in notebook 12, export that as one HTML page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lab4_core.data import load_data
from lab4_core.errors import Lab4Error
from lab4_core.pages.export import export_html
from lab4_core.paths import NOTEBOOKS, runs_dir
from lab4_core.presets import load_config
from lab4_core.sweeps.sweep import read_status, run_sweep

ANNEALING = ("cyclical", "monotonic", "none")
NOTEBOOK = NOTEBOOKS / "12_report.ipynb"


def make_report(
    profile: str = "demo",
    preset: str = "compact",
    data: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    overrides: dict[str, Any] | None = None,
    slots: int = 0,
) -> Path:
    """Train each KL-annealing type, then execute notebook 12 on the runs and export it; returns the page's path.

    data: a folder in the layout of the preset's model; by default as in `load_config`. out: the folder of the report,
    by default `runs/report-<profile>` with the name of the preset (unless compact) and of the dataset; made again with
    the same settings, it reuses finished runs. overrides: further fields of the configuration, the same for every type.
    The page, `submission.csv`, the test clips' GIFs and the sweep's table are in `out`. Raises `Lab4Error` if no run
    finished, with the reason of the first; a failed run beside finished ones is shown as failed on the page.
    """
    overrides = dict(overrides or {})
    seed = overrides.pop("seed", 0)
    minutes = overrides.pop("minutes", None) or 0.0
    cfg = load_config(profile, preset, data, overrides)
    # read or render the data once, before several runs would do so in parallel; and stop here if they are wrong
    load_data(cfg)
    root = getattr(cfg.data, "root", "")
    name = "report" + (f"-{preset}" if preset != "compact" else "") + f"-{profile}"
    name += f"-{Path(root).name}" if root else ""  # one dataset's report must not replace another's
    folder = Path(out).expanduser().resolve() if out else runs_dir() / name
    common = {"profile": profile, "preset": preset, "data": root, "seed": seed, "minutes": minutes,
              "overrides": overrides}  # fmt: skip
    # one thread per run, all types in parallel: on two cores this takes half as long as one after the other
    rows = run_sweep([{"annealing": kind} for kind in ANNEALING], folder, common, slots=slots or len(ANNEALING))
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise Lab4Error(f"report: no run finished; {rows[0]['annealing']}: {rows[0]['reason']}")
    runs = [str(folder / "points" / row["point"]) for row in rows]
    executed = execute(NOTEBOOK, folder / "report.ipynb", {"points": runs, "out": str(folder)})
    print("report: writing the page", flush=True)
    return export_html(executed, folder / "report.html")


def execute(notebook: Path, to: Path, parameters: dict[str, Any]) -> Path:
    """Run a notebook with papermill in its own folder. Raises `Lab4Error` with the failing cell's message."""
    import papermill

    print(f"report: executing {notebook.name}", flush=True)
    try:
        papermill.execute_notebook(str(notebook), str(to), parameters, kernel_name="python3", language="python",
                                   cwd=str(notebook.parent), progress_bar=False, execution_timeout=3600)  # fmt: skip
    except papermill.PapermillExecutionError as e:
        raise Lab4Error(f"notebook {notebook.name} stopped in cell {e.cell_index}: {e.ename}: {e.evalue}") from e
    except (RuntimeError, TimeoutError) as e:  # a kernel that died, a cell that hangs
        raise Lab4Error(f"notebook {notebook.name} stopped: {type(e).__name__}: {e}") from e
    return to


def point_run(folder: str | os.PathLike):
    """(run, reason) of a sweep's point: the run is None if it never came to one, the reason says what failed."""
    from lab4_core.runlog import Run

    status, folder = read_status(folder), Path(folder).resolve()
    if not status.get("run"):
        return None, status.get("reason")
    path = (folder / str(status["run"])).resolve()
    if not path.is_relative_to(folder):
        raise Lab4Error(f"{folder / 'status.json'}: run = {status['run']!r} lies outside of the point's folder")
    return Run(path), status.get("reason")
