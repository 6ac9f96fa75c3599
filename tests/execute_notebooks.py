"""Notebooks as they are committed: executed as they stand (profile smoke), on the synthetic data, in a run folder of
their own, and without what would differ in every commit. `make notebooks`, or some: `make notebooks ONLY="03 10"`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ExecutePreprocessor

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def execute(path: Path) -> None:
    """Execute a notebook in its folder and write it back; an error leaves the file as it was."""
    notebook = nbformat.read(path, as_version=4)
    run = ExecutePreprocessor(timeout=None, coalesce_streams=True, store_widget_state=False, record_timing=False)
    run.preprocess(notebook, {"metadata": {"path": str(path.parent)}})
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        if cell.cell_type == "code":  # what is said on stderr is progress, which a reader has no use for
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


def main(only: list[str]) -> None:
    for name in ("LAB4_DATA", "BAIR_DATA"):  # of whoever executes them
        os.environ.pop(name, None)
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not only or path.name[:2] in only:
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as runs:  # a training that is taken up shows no bar
                os.environ["LAB4_RUNS"] = runs
                execute(path)
            print(f"{path.name}: {time.monotonic() - begun:.0f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
