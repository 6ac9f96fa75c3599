"""What all tests share: they touch nothing of the user's, use one thread each, and find real frames only if told where.

This file is read before anything imports torch or lab4_core, also by the workers of pytest-xdist and so by the
notebooks' kernels, which inherit the environment set here.
"""

from __future__ import annotations

import collections
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from training_child import MEMORY

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
REAL = ("LAB4_DATA", "BAIR_DATA")  # roots of real datasets, for the fixtures below alone

if not IS_WORKER:
    SCRATCH = Path(tempfile.mkdtemp(prefix="lab4-tests-"))
    os.environ |= {
        "LAB4_RUNS": str(SCRATCH / "runs"),
        "LAB4_CACHE": str(SCRATCH / "cache"),  # one for the session: the synthetic frames are drawn once
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",  # as many workers as cores, each with one thread
        "MKL_NUM_THREADS": "1",
    }
    for name in REAL:  # a default that depends on the user's shell would make another test of each one
        if root := os.environ.pop(name, None):
            os.environ[f"TEST_{name}"] = str(Path(root).expanduser().resolve())
    os.environ.pop("LAB4_DEBUG", None)  # an error is to be the one line that users see

if IS_WORKER:  # two notebooks that train one configuration at one time would wait for one another's lock
    os.environ["LAB4_RUNS"] += "-" + os.environ["PYTEST_XDIST_WORKER"]

# The same cases every time; with LAB4_LONG=1 other ones every time, and many more (see `tests/cases.py`).
quiet = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
hypothesis.settings.register_profile("lab4", deadline=None, derandomize=True, suppress_health_check=quiet)
hypothesis.settings.register_profile("long", deadline=None, print_blob=True, suppress_health_check=quiet)
hypothesis.settings.load_profile("long" if os.environ.get("LAB4_LONG") == "1" else "lab4")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not IS_WORKER:
        shutil.rmtree(SCRATCH, ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"{name}: {os.environ.get(f'TEST_{name}', 'not set, tests on real frames are skipped')}" for name in REAL]


def pytest_terminal_summary(terminalreporter) -> None:
    """What was tried in all, on every worker: the numbers that tests recorded as properties."""
    tried: collections.Counter[str] = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for what, n in report.user_properties:
                    tried[what] += n
    if tried:
        terminalreporter.write_line("tried: " + ", ".join(f"{n:,} {what}" for what, n in sorted(tried.items())))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, where there is such a place."""
    path = Path(tempfile.mkdtemp(prefix="lab4-", dir=MEMORY if MEMORY.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of decoded and drawn frames of the test's own: `paths.CACHE`."""
    monkeypatch.setattr("lab4_core.paths.CACHE", tmp_path / "cache")


def real_root(name: str) -> Path:
    root = os.environ.get(f"TEST_{name}")
    if root is None:
        pytest.skip(f"{name} is not set")
    assert Path(root).is_dir(), f"{name} = {root} is no folder"
    return Path(root)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The root of a real dataset in the LAB4 layout; the test is skipped where $LAB4_DATA is not set."""
    return real_root("LAB4_DATA")


@pytest.fixture(scope="session")
def real_bair() -> Path:
    """The root of real BAIR clips; the test is skipped where $BAIR_DATA is not set."""
    return real_root("BAIR_DATA")
