"""The environment is written down three times, for three tools; these tests hold the three in step."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-image": "skimage", "beautifulsoup4": "bs4"}
TOOLS = {  # used, but by a command or by what it is to a user, not by an import
    "jupyterlab": "make lab",
    "ipykernel": "the kernel of the notebooks",
    "nbval": "make test",
    "pytest-xdist": "make test",
    "ruff": "make lint",
    "ray": "lab4 sweep --engine ray",
    "submitit": "lab4 sweep --engine slurm",
    "torchvision": "part of the frame the project was given: what a student adds to the models and transforms",
}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    found = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    assert len(found) == len(lines), "named twice"
    return found


def pins(lines: list[str]) -> dict[str, str]:
    """{package: version} of lines that say == and nothing else."""
    found = {}
    for name, requirement in requirements(lines).items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        found[name] = specifier.version
    return found


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def environment() -> tuple[list[str], list[str]]:
    """(conda's packages, pip's lines) of environment.yml."""
    wanted = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in wanted if isinstance(entry, dict)]
    return [entry for entry in wanted if isinstance(entry, str)], pip


DIRECT = requirements(PROJECT["dependencies"] + EXTRAS["dev"])


def test_constraints_pin_every_direct_dependency_inside_its_range():
    pinned = constraints()
    for name, requirement in DIRECT.items():
        assert name in pinned, f"{name} is not in constraints.txt"
        assert pinned[name] in requirement.specifier, f"{name}: {pinned[name]} is not {requirement.specifier}"


def test_constraints_are_closed():
    """Whatever a pinned package needs on this machine is pinned too, in a version it accepts."""
    pinned = constraints()
    for name in pinned:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for need in map(Requirement, needs):
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            dependency = canonicalize_name(need.name)
            if dependency in ("pip", "setuptools", "wheel"):
                continue
            assert dependency in pinned, f"{name} needs {dependency}, which is not in constraints.txt"
            assert need.specifier.contains(pinned[dependency], prereleases=True), f"{name} needs {need}"


def test_environment_yml_installs_the_same():
    conda, pip = environment()
    options = [line for line in pip if line.startswith("-")]
    exact = pins([line for line in pip if not line.startswith("-")])
    assert options == ["--constraint constraints.txt", "--editable ."]
    assert exact == {name: constraints()[name] for name in DIRECT}
    asked = {canonicalize_name(r.name): r.extras for r in map(Requirement, pip[1:-1])}
    assert asked == {name: r.extras for name, r in DIRECT.items()}
    python = next(entry.split("=", 1)[1] for entry in conda if entry.startswith("python="))
    assert python in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_torch_and_torchvision_are_a_pair_that_works():
    pinned = constraints()
    assert (pinned["torch"], pinned["torchvision"]) == ("2.11.0", "0.26.0")


def test_this_environment_is_the_pinned_one():
    if not (ROOT / ".venv" / ".lab4-ready").exists() or Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("not run in the .venv that make setup builds")
    wrong = {}
    for name in DIRECT:
        found = importlib.metadata.version(name).partition("+")[0]  # a +cpu build is the same release
        if found != constraints()[name]:
            wrong[name] = found
    assert not wrong


def imports(path: Path) -> set[str]:
    """Top-level names a Python file or a notebook imports, those inside functions among them."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        code = re.sub(r"^\s*[%!].*$", "pass", code, flags=re.MULTILINE)
    else:
        code = path.read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(code, str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
            names |= {arg.value.partition(".")[0] for arg in node.args if isinstance(arg, ast.Constant)}
    return names


def sources(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".ipynb"))


def test_everything_imported_is_declared():
    first_party = {"lab4_core", "__future__"} | {p.stem for p in sources("tests", "benchmarks")}
    declared = {IMPORT_NAMES.get(name, name) for name in DIRECT} | {"packaging"}  # packaging comes with pytest
    declared |= {Requirement(r).name for extra in EXTRAS.values() for r in extra}
    for path in sources("lab4_core", "tests", "benchmarks", "notebooks"):
        unknown = imports(path) - declared - first_party - set(sys.stdlib_module_names)
        # IPython and jupyter_client come with ipykernel, traitlets and jinja2 with nbconvert
        assert not unknown - {"IPython", "jupyter_client"}, (
            f"{path.relative_to(ROOT)} imports {unknown}: not in pyproject.toml"
        )


def test_every_dependency_earns_its_place():
    used = set().union(*map(imports, sources("lab4_core", "tests", "benchmarks", "notebooks")))
    idle = [name for name in DIRECT if IMPORT_NAMES.get(name, name) not in used and name not in TOOLS]
    assert not idle, f"imported nowhere: {idle}"


def test_every_folder_of_the_package_is_a_package():
    """Else an installed copy lacks it, while tests in the checkout find it."""
    folders = {p.parent for p in (ROOT / "lab4_core").rglob("*.py")}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def test_make_alone_lists_the_targets():
    result = make()
    assert result.returncode == 0
    for target in ("setup", "report", "test", "lab"):
        assert re.search(rf"^make {target} +\w", result.stdout, re.MULTILINE), result.stdout


@pytest.fixture
def bare_checkout(tmp_path: Path) -> Path:
    """What make needs of a fresh clone, in a folder with a space in its name."""
    folder = tmp_path / "fresh clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).write_text((ROOT / name).read_text())
    return folder


def test_without_a_python_setup_says_what_is_needed(bare_checkout: Path):
    result = make("setup", "PYTHON=", folder=bare_checkout)
    assert result.returncode != 0
    assert "no Python from 3.11 to 3.14" in result.stderr


def test_without_venv_setup_names_the_package(bare_checkout: Path):
    crippled = bare_checkout / "python-without-venv"
    crippled.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\necho Python 3.11.0\n')
    crippled.chmod(0o755)
    result = make("setup", "PYTHON=./python-without-venv", folder=bare_checkout)
    assert result.returncode != 0
    assert "sudo apt install python3-venv" in result.stderr


def test_setup_is_done_once_per_place_and_per_change(bare_checkout: Path):
    """A finished environment is left alone; a changed pin or a copied checkout makes it anew."""
    ready = bare_checkout / ".venv" / ".lab4-ready"
    ready.parent.mkdir()
    ready.write_text(str(bare_checkout))
    assert make("--question", "setup", folder=bare_checkout).returncode == 0
    os.utime(ready, (0, 0))
    assert make("--question", "setup", folder=bare_checkout).returncode == 1, "older than constraints.txt"
    ready.write_text("/another/place")
    assert make("--question", "setup", folder=bare_checkout).returncode == 1, "made for another checkout"


def test_report_passes_its_options_on(bare_checkout: Path):
    """The stand-in for .venv/bin/lab4 prints the arguments it gets."""
    bin_ = bare_checkout / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "lab4").write_text('#!/bin/sh\nfor a in "$@"; do echo "<$a>"; done\n')
    (bin_ / "lab4").chmod(0o755)
    (bare_checkout / ".venv" / ".lab4-ready").write_text(str(bare_checkout))
    assert make("report", folder=bare_checkout).stdout.split("\n")[:-1] == ["<report>", "<--profile>", "<demo>"]
    result = make("report", "PROFILE=smoke", "DATA=../my frames", folder=bare_checkout)
    assert result.stdout.split("\n")[:-1] == ["<report>", "<--profile>", "<smoke>", "<--data>", "<../my frames>"]


def test_tests_find_real_frames_through_the_fixtures_alone():
    """conftest.py moves $LAB4_DATA away; a test that reads it by itself would be skipped for ever."""
    read = re.compile(r"(environ(\.get\(|\[)|getenv\()\s*[\"'](LAB4|BAIR)_DATA")
    for path in sources("tests"):
        assert not read.search(path.read_text(encoding="utf-8")), f"{path.name}: use the fixture real_data or real_bair"


def test_tests_see_nothing_of_the_user():
    assert not {"LAB4_DATA", "BAIR_DATA", "LAB4_DEBUG"} & set(os.environ)
    for name in ("LAB4_RUNS", "LAB4_CACHE"):
        assert ROOT not in Path(os.environ[name]).parents
