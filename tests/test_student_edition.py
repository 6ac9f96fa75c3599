"""The student's edition: what is taken out, what stays, and that the check sees the difference."""

from __future__ import annotations

import json

import nbformat
import pytest
from nbformat import v4

from lab4_core import cli
from lab4_core.errors import Lab4Error
from lab4_core.pages import student_edition
from lab4_core.paths import NOTEBOOKS

SOLUTION = '''# a constant that stays
HALF = 0.5


def area(side):
    """The area of a square."""
    square = side * side
    return square


def half(x):
    """Half of x."""
    return HALF * x'''
EXERCISES = [p for p in sorted(NOTEBOOKS.glob("*.ipynb")) if '"solution"' in p.read_text(encoding="utf-8")]


@pytest.fixture
def suite(tmp_path):
    """A suite of one notebook: parameters, setup, a solution, a plot that no check runs, and two checks."""
    cells = [("parameters", "n: int = 3  # a number"), ("setup", "import math"), ("solution", SOLUTION),
             (None, "raise RuntimeError('a cell outside the chain')"), ("check", "assert area(n) == 9"),
             ("check", "assert half(area(n)) == 4.5")]  # fmt: skip
    notebook = v4.new_notebook()
    for i, (tag, source) in enumerate(cells):
        cell = v4.new_code_cell(source, metadata={"tags": [tag]} if tag else {}, id=f"c{i}")
        cell.outputs = [v4.new_output("stream", text="9\n")]
        notebook.cells.append(cell)
    (tmp_path / "suite").mkdir()
    nbformat.write(notebook, tmp_path / "suite" / "01_squares.ipynb")
    return tmp_path / "suite"


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_bodies_go_and_docstrings_stay():
    blank = student_edition.blanked(SOLUTION)
    assert "side * side" not in blank and "return" not in blank and "# a constant" in blank and "HALF = 0.5" in blank
    assert '"""The area of a square."""' in blank and "TODO: half" in blank
    assert student_edition.missing(blank) == ("area", "half") and student_edition.missing(SOLUTION) == ()
    with pytest.raises(Lab4Error, match="docstring"):
        student_edition.blanked("def f(x):\n    return x")


def test_the_solved_suite_passes_and_the_edition_does_not(suite, tmp_path):
    (solved,) = student_edition.check_edition(suite, suite)
    assert solved.done and (solved.passed, solved.checks) == (2, 2)
    student_edition.build_edition(tmp_path / "edition", suite)
    edition = nbformat.read(tmp_path / "edition" / "01_squares.ipynb", 4)
    assert all(cell.outputs == [] for cell in edition.cells)
    (finding,) = student_edition.check_edition(tmp_path / "edition", suite)
    assert not finding.done and finding.todo == ("area", "half") and finding.passed == 0


def test_a_half_done_and_a_wrong_solution(suite, tmp_path):
    student_edition.build_edition(tmp_path / "edition", suite)
    path = tmp_path / "edition" / "01_squares.ipynb"
    rewrite(path, 'raise NotImplementedError(\\"TODO: area\\")', "return side**2")
    (finding,) = student_edition.check_edition(path.parent, suite)
    assert finding.todo == ("half",) and finding.passed == 1
    rewrite(path, 'raise NotImplementedError(\\"TODO: half\\")', "return 2 * x")
    (finding,) = student_edition.check_edition(path.parent, suite)
    assert not finding.done and finding.todo == () and "AssertionError" in finding.failure
    assert "half(area(n)) == 4.5" in str(finding)
    rewrite(path, "return 2 * x", "return x / 2")
    assert student_edition.check_edition(path.parent, suite)[0].done


def test_a_student_cannot_pass_by_changing_the_checks(suite, tmp_path):
    student_edition.build_edition(tmp_path / "edition", suite)
    path = tmp_path / "edition" / "01_squares.ipynb"
    rewrite(path, "assert area(n) == 9", "pass")
    assert not student_edition.check_edition(path.parent, suite)[0].done


def test_the_answers_stay_behind(tmp_path):
    """The real suite: no copy of the notebook with the answers, and nothing that leads to it."""
    assert (NOTEBOOKS / student_edition.ANSWERS).is_file()
    written = student_edition.build_edition(tmp_path / "edition", NOTEBOOKS)
    names = {p.name for p in NOTEBOOKS.glob("*.ipynb")}
    assert {p.name for p in written} == names - {student_edition.ANSWERS} | {"README.md"}
    for path in written:
        assert student_edition.ANSWERS not in path.read_text(encoding="utf-8"), path.name
    before, after = (nbformat.read(folder / "12_report.ipynb", 4) for folder in (NOTEBOOKS, tmp_path / "edition"))
    bar, left = (notebook.cells[0].source.split("\n\n")[1] for notebook in (before, after))
    assert bar.startswith(left) and left.endswith("**12 Report**"), left
    assert [c.source for c in before.cells[1:]] == [c.source for c in after.cells[1:]]


def test_mistakes_have_one_clear_error(suite, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "work.txt").write_text("mine")
    with pytest.raises(Lab4Error, match="empty folder"):
        student_edition.build_edition(tmp_path / "full", suite)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["work.txt"]
    with pytest.raises(Lab4Error, match="no notebook"):
        student_edition.check_edition(tmp_path / "full", suite)
    assert cli.main(["student-edition"]) == 2
    assert "either --out DIR or --check DIR" in capsys.readouterr().err
    path = suite / "01_squares.ipynb"
    rewrite(path, '"id": "c2"', '"id": "gone"')
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / path.name).write_text(path.read_text())
    rewrite(path, '"id": "gone"', '"id": "c2"')
    assert "is gone" in student_edition.check_edition(tmp_path / "copy", suite)[0].failure
    (tmp_path / "copy" / path.name).write_text("no notebook")
    assert "cannot be read" in student_edition.check_edition(tmp_path / "copy", suite)[0].failure


def test_ids_among_the_metadata_are_found_too(suite, tmp_path):
    path = suite / "01_squares.ipynb"
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        cell.setdefault("metadata", {})["id"] = cell.pop("id")
        if "solution" in cell["metadata"].get("tags", ()):
            cell["source"] = ["%config IPCompleter.greedy = True\n", *"".join(cell["source"]).splitlines(True)]
    (tmp_path / path.name).write_text(json.dumps({**notebook, "nbformat_minor": 0}))
    assert student_edition.check_edition(tmp_path, suite)[0].done


@pytest.mark.parametrize("path", EXERCISES, ids=[p.stem for p in EXERCISES])
def test_the_suite_itself_is_solved_and_its_edition_is_not(path, tmp_path):
    """The real notebooks: checks pass on the suite, and every solution is something that a check misses."""
    solved = student_edition.check_notebook(path, path)
    assert solved.done and solved.checks >= 1, str(solved)
    notebook = nbformat.read(path, 4)
    names = []
    for cell in notebook.cells:
        if "solution" in student_edition.tags(cell):
            cell.source = student_edition.blanked(cell.source)
            names += student_edition.missing(cell.source)
    nbformat.write(notebook, tmp_path / path.name)
    finding = student_edition.check_notebook(tmp_path / path.name, path)
    assert finding.todo == tuple(names) and not finding.done and finding.passed < solved.passed
