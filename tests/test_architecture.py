"""What the tree promises to whoever reads it: one direction of imports, short files, nothing of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lab4_core"

# A file imports only from files to its left; a folder counts as one. This is the one place where the order is written.
ORDER = """
    errors distributed paths tensor_files registry config presets losses metrics scores schedules teacher_forcing
    muon optimizers layers models progress data strategies gif media accel graphs free_running evaluation submission
    checkpoint runlog clock batches training trackers finite interrupts engine perceptual inference weights soups
    plots widgets sweeps pages bench cli
""".split()

ENGINE = {"accel", "free_running", "evaluation", "checkpoint", "training", "engine", "inference"}
IGNORANT = {  # whoever is left of something may still have to know nothing of it
    "models": {"paths", "config", "presets", "data"} | ENGINE,
    "media": {"models", "data"} | ENGINE,
    "plots": {"models", "data"} | ENGINE,
    "widgets": {"models", "data"} | ENGINE,
    "sweeps": {"models"} | ENGINE,
    "pages": {"models"} | ENGINE,
}

SOURCES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(p.relative_to(PACKAGE)) for p in SOURCES]


def slot(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The slots of lab4_core that a file imports, those inside functions among them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [node.module] if node.module != "lab4_core" else [f"lab4_core.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("lab4_core.")}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_imports_run_one_way(path: Path):
    if path == PACKAGE / "__init__.py":
        assert imported(path) == set(), "the package loads its parts on first use"
        return
    here = slot(path)
    assert here in ORDER, f"{here} has no place in the order yet"
    allowed = set(ORDER[: ORDER.index(here)])
    if path.parent != PACKAGE:
        allowed.add(here)
    assert imported(path) <= allowed, f"{path.relative_to(ROOT)} looks to its right"


@pytest.mark.parametrize("who", IGNORANT)
def test_who_must_not_know_whom(who: str):
    for path in SOURCES:
        if slot(path) == who:
            assert not imported(path) & IGNORANT[who], f"{path.relative_to(ROOT)}"


def test_the_order_names_no_file_that_is_gone():
    there = {slot(p) for p in SOURCES}
    assert [name for name in (*ORDER, *IGNORANT) if name not in there] == []


def test_no_file_is_long():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in zip(IDS, SOURCES)}
    assert {name: n for name, n in lines.items() if n > 300} == {}


def test_public_names_resolve():
    import lab4_core

    assert [name for name in lab4_core.__all__ if getattr(lab4_core, name) is None] == []


def calls(path: Path, module: str, function: str) -> list[ast.Call]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"{module}.{function}":
            found.append(node)
    return found


def test_a_checkpoint_never_runs_code():
    """torch.load only with weights_only=True, and no other way to unpickle a file."""
    loads = [call for path in SOURCES for call in calls(path, "torch", "load")]
    assert loads, "nothing loads checkpoints any more: this test looks for the wrong thing"
    for call in loads:
        safe = [k.value.value for k in call.keywords if k.arg == "weights_only" and isinstance(k.value, ast.Constant)]
        assert safe == [True], ast.unparse(call)
    for path in SOURCES:
        for module, function in (("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler"), ("joblib", "load")):
            assert not calls(path, module, function), f"{path.relative_to(ROOT)} unpickles"
        for call in calls(path, "np", "load"):
            assert "allow_pickle=True" not in ast.unparse(call)


def committed_files() -> list[Path]:
    """What is in git or would be added; in a checkout without git, what lies outside of ignored folders."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listing.returncode == 0:
        return [ROOT / name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    ignored = {".git", ".venv", "runs", "build", "__pycache__", "cache", "synthetic", ".pytest_cache", ".ruff_cache"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not ignored & set(p.relative_to(ROOT).parts)]


PLACES = "root work tmp/bash opt/pypi opt/wheels home/[a-z]+ Users/[A-Za-z]+ workspace mnt/data".split()
HOSTS = ["pypi", "pythonhosted", "anaconda", "download.pytorch", "npmjs", "unpkg"]
OF_A_MACHINE = re.compile(
    "|".join(
        [rf"(?<![\w.)}}]){re.escape('/')}(?:{p})/" for p in PLACES] + [rf"\b{re.escape(h)}\.(?:org|com)" for h in HOSTS]
    )
)


def test_the_pattern_for_places_finds_them():
    for bad in ("open('/root" + "/x')", "see /home" + "/ann/lab", "https://pypi" + ".org/simple", "C=/work" + "/main"):
        assert OF_A_MACHINE.search(bad), bad
    for good in ("../shared/lab4_mini", "notebooks/work/a.png", "https://pytorch.org", "runs/x", "data/home/ann/"):
        assert not OF_A_MACHINE.search(good), good


def test_no_committed_file_knows_this_machine():
    found = []
    for path in committed_files():
        if path.stat().st_size < 5_000_000:
            match = OF_A_MACHINE.search(path.read_bytes().decode("utf-8", errors="ignore"))
            found += [f"{path.relative_to(ROOT)}: {match[0]}"] if match else []
    assert not found


def test_the_top_level_holds_what_the_design_says():
    expected = "notebooks lab4_core data figures tests benchmarks .ci .gitignore Makefile LICENSE README.md "
    expected += "CONTRIBUTING.md pyproject.toml constraints.txt environment.yml"
    assert {p.relative_to(ROOT).parts[0] for p in committed_files()} <= set(expected.split())
