"""What holds for every notebook without running it. That they run, `make test` sees to with nbval, on copies with
`profile = "smoke"`; golden cells (tag nbval-check-output) are compared there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from lab4_core.pages.export import check_offline, notebook_html
from lab4_core.pages.student_edition import ANSWERS, blanked, missing

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"parameters", "nbval-check-output", "nbval-ignore-output", "nbval-skip", "raises-exception"}
TAGS |= {
    "setup",
    "solution",
    "check",
}  # what a student is given, has to write, and is checked by: student_edition.py
CELL_METADATA = {"tags", "jupyter", "slideshow", "editable"}

every_notebook = pytest.mark.parametrize("path", PATHS, ids=[p.stem for p in PATHS])


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def cells(notebook: nbformat.NotebookNode, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def test_the_story_is_there():
    numbers = [p.name[:2] for p in PATHS]
    assert {"00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "12"} <= set(numbers)
    assert len(set(numbers)) == len(numbers), "a number is given twice"


@every_notebook
def test_it_is_a_small_valid_notebook_without_errors(path: Path):
    assert path.stat().st_size < 1_000_000
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor >= 5) == (4, True), "cells need ids"
    assert [o for c in cells(notebook, "code") for o in c.outputs if o.output_type == "error"] == []


@every_notebook
def test_metadata_say_only_what_is_meant(path: Path):
    """No timestamps, widget states or versions of whoever ran it last: they differ in every commit."""
    notebook = read(path)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.get("language_info", {})
    for cell in notebook.cells:
        assert set(cell.metadata) <= CELL_METADATA, cell.source[:80]
        assert set(tags(cell)) <= TAGS, f"{tags(cell)}: a mistyped tag does nothing"


@every_notebook
def test_it_opens_with_its_title(path: Path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# \S", first.source)
    titles = [c for c in cells(read(path), "markdown") if re.search(r"^# ", without_code(c.source), re.MULTILINE)]
    assert len(titles) == 1, "one title; its parts begin with ##"


@every_notebook
def test_its_bar_leads_to_its_neighbours(path: Path):
    """Second paragraph: ◀ the notebook before, this one in bold, the one after ▶."""
    bar = read(path).cells[0].source.split("\n\n")[1]
    at = PATHS.index(path)
    before, after = PATHS[at - 1] if at else None, PATHS[at + 1] if at + 1 < len(PATHS) else None
    assert re.findall(r"\[◀[^]]*\]\(([^)]*)\)", bar) == ([before.name] if before else [])
    assert re.findall(r"\[[^]]*▶\]\(([^)]*)\)", bar) == ([after.name] if after else [])
    assert re.search(rf"\*\*{path.name[:2]} [^*]+\*\*", bar)


@every_notebook
def test_links_lead_to_files_that_exist(path: Path):
    for target in re.findall(r"\]\(([^):]+\.(?:ipynb|md|py))\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).is_file(), target


@every_notebook
def test_nothing_says_when_or_where_it_ran(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d", text), "a timestamp"
    assert '"papermill"' not in text.replace("papermill\\n", ""), "metadata of papermill"
    for cell in cells(read(path), "code"):
        assert [o for o in cell.outputs if o.get("name") == "stderr"] == [], cell.source[:80]


WIDGET = "application/vnd.jupyter.widget-view+json"


SHOWS = re.compile(r"\bwidgets\.(?:Knobs|rollout_player|pose_player|watch|compare)\(")


@every_notebook
def test_every_widget_has_a_static_twin(path: Path):
    """Stored is a picture with caption and alt text, never a view whose kernel is gone. Every widget comes from
    `lab4_core.widgets`, which makes none where nobody watches: `interact` and Output hang in runs without a browser."""
    for cell in cells(read(path), "code"):
        assert not re.search(r"\bipywidgets\b|\binteract(?:ive)?\(", cell.source), cell.source[:80]
        data = [o.get("data", {}) for o in cell.outputs]
        assert not any(WIDGET in d for d in data), cell.source[:80]
        if SHOWS.search(cell.source):
            twins = [d["text/html"] for d in data if {"image/png", "text/html"} <= set(d)]
            assert len(twins) == 1 and re.search(r'<img alt="[^"]{20,}"', twins[0]), cell.source[:80]
            assert "<figcaption>" in twins[0], cell.source[:80]


def test_the_widgets_are_where_they_teach():
    used = {p.name[:2]: " ".join(c.source for c in cells(read(p), "code")) for p in PATHS}
    for number, name in (("01", "Knobs"), ("02", "Knobs"), ("03", "pose_player"), ("04", "Knobs"), ("05", "Knobs"),
                         ("06", "watch"), ("07", "compare"), ("00", "rollout_player"), ("08", "rollout_player"),
                         ("09", "rollout_player")):  # fmt: skip
        assert f"widgets.{name}(" in used[number], f"{number}: no {name}"


@every_notebook
def test_every_exercise_can_be_taken_out_and_is_checked(path: Path):
    """What `lab4 student-edition` needs: see pages/student_edition.py."""
    code = cells(read(path), "code")
    for i, cell in enumerate(code):
        if "solution" in tags(cell):
            assert missing(blanked(cell.source)), cell.source[:80]
            assert any("check" in tags(c) for c in code[i + 1 :]), f"no check after {cell.source[:80]}"


def without_code(markdown: str) -> str:
    return re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)


@every_notebook
def test_its_first_code_cell_holds_the_parameters(path: Path):
    """One cell that papermill finds; every parameter has a type, a plain default and a word on what it is."""
    code = cells(read(path), "code")
    assert ["parameters" in tags(cell) for cell in code] == [True] + [False] * (len(code) - 1)
    lines = code[0].source.splitlines()
    names = []
    for statement in ast.parse(code[0].source).body:
        text = lines[statement.lineno - 1]
        assert isinstance(statement, ast.AnnAssign), f"{text}: expected name: type = value  # comment"
        ast.literal_eval(statement.value)
        above = lines[statement.lineno - 2] if statement.lineno > 1 else ""
        assert "#" in lines[statement.end_lineno - 1] or above.lstrip().startswith("#"), f"{text}: no comment"
        names.append(statement.target.id)
    assert "profile" in names


def test_the_answers_answer_every_question():
    """Notebook 13 has a section for every notebook that asks, and in it the numbers of the questions, in order."""

    def text(path: Path) -> str:
        return "\n\n".join(cell.source for cell in cells(read(path), "markdown"))

    answers = next(p for p in PATHS if p.name == ANSWERS)
    sections = dict(re.findall(r"^## (\d\d) · [^\n]*\n(.*?)(?=^## |\Z)", text(answers), re.MULTILINE | re.DOTALL))
    for path in PATHS:
        _, *to_try = text(path).split("## To try")
        asked = [number for part in to_try for number in re.findall(r"^(\d+)\. ", part, re.MULTILINE)]
        answered = re.findall(r"^\*\*(\d+)\. ", sections.pop(path.name[:2], ""), re.MULTILINE)
        assert answered == asked, path.name
    assert not sections, "answers to no notebook's questions"


@every_notebook
def test_golden_cells_have_something_to_compare(path: Path):
    """nbval compares nothing where nothing is stored, and pictures never."""
    golden = [cell for cell in cells(read(path), "code") if "nbval-check-output" in tags(cell)]
    for cell in golden:
        assert cell.outputs, cell.source[:80]
        assert cell.execution_count, "nbval takes a stored output without a count for a mistake"
        for output in cell.outputs:
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            assert text.strip(), cell.source[:80]
            assert not {"text/html", "image/png"} & set(output.get("data", {})), cell.source[:80]
    checks = [cell for cell in cells(read(path), "code") if re.search(r"^\s*assert ", cell.source, re.MULTILINE)]
    assert golden or checks, "neither a golden cell nor an assert: any numbers would pass"


@every_notebook
def test_its_page_is_whole_and_described(path: Path):
    """Exported as it lies there: every formula converts, nothing comes from outside, every picture has its own text."""
    notebook = read(path)
    html = notebook_html(notebook)
    check_offline(html)
    page = BeautifulSoup(html, "html.parser")
    for image in page.find_all(["img", "svg"]):
        text = image.get("alt") or image.get("aria-label") or (image.title.text if image.title else "")
        assert text, str(image)[:120]
        assert not text.startswith("Picture"), f"{text}: the exporter had to make up a description"
    for code in page.find_all(["pre", "code", "math", "style"]):
        code.decompose()
    assert not re.search(r"\$|\\[a-zA-Z]+\b", page.main.text), "a formula was not recognised"


def test_nbval_sees_a_wrong_number_and_runs_the_smoke_profile(tmp_path: Path):
    """The way of `make test`, on a notebook with one right and one wrong golden cell."""

    def golden(value: int) -> nbformat.NotebookNode:
        stored = v4.new_output("stream", name="stdout", text=f"{value}\n")
        tagged = {"tags": ["nbval-check-output"]}
        return v4.new_code_cell("print(6 * 7)", metadata=tagged, outputs=[stored], execution_count=1)

    parameters = v4.new_code_cell('profile: str = "demo"  # how much', metadata={"tags": ["parameters"]})
    smoke = v4.new_code_cell('assert profile == "smoke"')
    notebook = v4.new_notebook(cells=[parameters, smoke, golden(42), golden(43)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "00_try.ipynb")
    recipe = (ROOT / "Makefile").read_text()
    prepare = re.search(r"papermill (--prepare-only .*?) \$<", recipe)[1].split()
    flags = re.findall(r"--nbval-\S+(?: \d+)?", recipe)
    copy = tmp_path / "00_try.ipynb"
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
    source = str(tmp_path / "notebooks" / "00_try.ipynb")
    subprocess.run([sys.executable, "-m", "papermill", *prepare, source, str(copy)], check=True, **run)
    nbval = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *" ".join(flags).split(), str(copy)]
    result = subprocess.run(nbval, **run)
    assert re.search(r"1 failed, 4 passed", result.stdout), result.stdout[-3000:] + result.stderr[-1000:]
    assert "43" in result.stdout
