"""The suite as an exercise: notebooks whose solutions are TODOs, and the check that says what is still missing.

Three cell tags make it. `setup` cells are given, `solution` cells are to be written (their comments, signatures and
docstrings stay), `check` cells decide. These and the `parameters` cell, in their order, run alone: no training, no
pictures, so a check takes seconds. Checks are always those of the suite, found by the cell's id, never the student's.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from lab4_core.errors import Lab4Error
from lab4_core.paths import NOTEBOOKS, ROOT, write_text

CHAIN = {"parameters", "setup", "solution", "check"}
ANSWERS = "13_answers.ipynb"  # the answers to the questions at the end of the notebooks: for teachers
TODO = "TODO"
TIMEOUT = 300  # seconds for the checks of one notebook

README = """# Exercises

Notebooks in which functions are missing: each raises `NotImplementedError("TODO: ...")` below a docstring that says
what it has to return. Write it, run the cells after it, and see what is still missing with

    lab4 student-edition --check {folder}

The package `lab4_core` holds a version of most of them: read it afterwards.
"""


@dataclass(frozen=True)
class Finding:
    """What the checks say about one notebook: names still to write, and the first failure with the cell it is in."""

    notebook: str
    todo: tuple[str, ...]
    passed: int
    checks: int
    failure: str = ""

    @property
    def done(self) -> bool:
        return not self.todo and not self.failure and self.passed == self.checks

    def __str__(self) -> str:
        state = "complete" if self.done else f"to write: {', '.join(self.todo)}" if self.todo else self.failure
        return f"{self.notebook}: {self.passed} of {self.checks} checks pass; {state}"


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def blanked(source: str) -> str:
    """The source of a solution cell without its solutions: the body of every function becomes one TODO.

    Comments outside of functions, constants, signatures and docstrings stay. Raises `Lab4Error` for a cell without a
    function that has a docstring: the student would not know what to write.
    """
    lines = source.splitlines()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    if not functions or not all(ast.get_docstring(f) for f in functions):
        raise Lab4Error(f"solution cell {lines[:1]}: expected functions, each with a docstring that says what to write")
    for f in reversed(functions):
        indent = " " * f.body[0].col_offset
        todo = f'{indent}raise NotImplementedError("{TODO}: {f.name}")'
        lines[f.body[0].end_lineno : f.end_lineno] = [todo]  # what is below the docstring
    return "\n".join(lines)


def missing(source: str) -> tuple[str, ...]:
    """The functions of a cell that still raise their TODO."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            last = ast.unparse(node.body[-1])
            if last.startswith("raise NotImplementedError") and TODO in last:
                found.append(node.name)
    return tuple(found)


def without_answers(notebook: Any) -> Any:
    """The notebook without links to `ANSWERS`: one in the bar goes with the dot before it, of others the words stay."""
    link = rf"\[([^]]*)\]\({re.escape(ANSWERS)}\)"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(link, r"\1", re.sub(rf" · \[[^]]*▶\]\({re.escape(ANSWERS)}\)", "", cell.source))
    return notebook


def build_edition(out: str | os.PathLike, source: str | os.PathLike = NOTEBOOKS) -> list[Path]:
    """Write the student's notebooks and a README into the new or empty folder `out`; returns the paths.

    Only notebooks with solutions are exercises: their outputs are taken away. The others come along as they are, but
    for `ANSWERS`, which stays behind with the links that lead to it.
    """
    folder = Path(out).expanduser()
    if folder.is_dir() and any(folder.iterdir()):
        raise Lab4Error(f"--out {folder}: expected a new or empty folder; a student's work is not written over")
    texts = {}
    for path in sorted(Path(source).glob("*.ipynb")):
        if path.name == ANSWERS:
            continue
        notebook = without_answers(nbformat.read(path, as_version=4))
        if any("solution" in tags(cell) for cell in notebook.cells):
            for cell in notebook.cells:
                if cell.cell_type != "code":
                    continue
                cell.outputs, cell.execution_count = [], None
                if "solution" in tags(cell):
                    cell.source = blanked(cell.source)
        texts[path.name] = nbformat.writes(notebook) + "\n"
    if not texts:
        raise Lab4Error(f"{source}: expected notebooks, found none")
    texts["README.md"] = README.format(folder=folder.name)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def chain(notebook: Any, reference: Any) -> list[tuple[str, str]]:
    """(tag, source) of the cells to run, in the suite's order: solutions are the student's, all else the suite's.

    Raises `Lab4Error` when a solution cell of the suite is not in the student's notebook any more.
    """
    # some programs save a cell's id among its metadata; %timeit and !ls are no Python
    own = {
        cell.get("id") or cell.metadata.get("id"): re.sub(r"(?m)^[%!].*$", "", cell.source) for cell in notebook.cells
    }
    cells = []
    for cell in reference.cells:
        kind = next(iter(CHAIN & tags(cell)), None)
        if kind is None or cell.cell_type != "code":
            continue
        if kind == "solution" and cell.id not in own:
            raise Lab4Error(f"the cell {cell.id} is gone: expected the one with {cell.source.splitlines()[0]}")
        cells.append((kind, own[cell.id] if kind == "solution" else cell.source))
    return cells


RUNNER = """
import json, sys
cells, space, passed = json.load(open(sys.argv[1])), {"__name__": "__main__", "display": print}, 0
for number, (kind, source) in enumerate(cells):
    try:
        exec(compile(source, f"<{kind} cell {number}>", "exec"), space)
    except BaseException as error:
        import traceback
        lines = source.splitlines()
        at = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == f"<{kind} cell {number}>"]
        where = lines[at[0] - 1].strip() if at else lines[0]
        print("\\n" + json.dumps([passed, f"in `{where}`: {type(error).__name__} {str(error).splitlines()[:1]}"]))
        break
    passed += kind == "check"
else:
    print("\\n" + json.dumps([passed, ""]))
"""


def check_notebook(path: Path, reference: Path) -> Finding:
    """Run the suite's checks on a student's notebook, in a process of its own."""
    try:
        student = nbformat.read(path, as_version=4)
        cells = chain(student, nbformat.read(reference, as_version=4))
        todo = tuple(name for kind, source in cells if kind == "solution" for name in missing(source))
    except SyntaxError as e:
        return Finding(path.name, (), 0, 1, f"a cell is no Python: {e}")
    except Lab4Error as e:
        return Finding(path.name, (), 0, 1, str(e))
    except Exception as e:  # a file that is no notebook fails in as many ways as there are such files
        return Finding(path.name, (), 0, 1, f"cannot be read ({e}): expected a Jupyter notebook")
    checks = sum(kind == "check" for kind, _ in cells)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cells.json"
        file.write_text(json.dumps(cells), encoding="utf-8")
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": search, "MPLBACKEND": "agg"}
        try:
            done = subprocess.run([sys.executable, "-c", RUNNER, str(file)], capture_output=True, text=True,
                                  timeout=TIMEOUT, cwd=folder, env=environment)  # fmt: skip
        except subprocess.TimeoutExpired:
            return Finding(path.name, todo, 0, checks, f"not finished after {TIMEOUT} s")
    try:
        passed, failure = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return Finding(path.name, todo, 0, checks, f"the process ended with {done.returncode}: {done.stderr[-300:]}")
    return Finding(path.name, todo, passed, checks, failure)


def check_edition(folder: str | os.PathLike, source: str | os.PathLike = NOTEBOOKS) -> list[Finding]:
    """A finding for every notebook of the suite that has exercises and lies in `folder`.

    Raises `Lab4Error` when there is none.
    """
    folder, findings = Path(folder).expanduser(), []
    for reference in sorted(Path(source).glob("*.ipynb")):
        if (folder / reference.name).is_file() and '"solution"' in reference.read_text(encoding="utf-8"):
            findings.append(check_notebook(folder / reference.name, reference))
    if not findings:
        raise Lab4Error(f"--check {folder}: expected the folder of a student's edition, found no notebook of one")
    return findings
