"""The short form of `python -m benchmarks.soak`: a few rounds, and that it would see a leak."""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path

import pytest
import soak

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory and open files are read in /proc")


def test_a_few_rounds_leave_no_file_open_and_do_not_grow(tmp_path, capsys):
    readings = []
    for number in range(soak.WARM_UP + 4):
        soak.one_round(tmp_path / str(number), number)
        readings.append(replace(soak.read(0.0), seconds=float(number)))
    assert soak.judge(readings, 20.0) == []


@pytest.mark.parametrize("leak", ["memory", "files"])
def test_a_leak_is_seen(leak, tmp_path):
    kept = []

    def leaking(folder: Path, number: int) -> None:
        if leak == "memory":
            kept.append(mmap.mmap(-1, 60_000_000))  # past the allocator, which would take what earlier tests freed
            kept[-1].write(b"x" * 60_000_000)
        else:
            kept.append(open(tmp_path / "file", "w"))  # noqa: SIM115 - that is the leak

    readings = []
    for number in range(soak.WARM_UP + 6):
        leaking(tmp_path, number)
        readings.append(replace(soak.read(0.0), seconds=float(number)))
    (found,) = soak.judge(readings, 20.0)
    assert leak in found
    for thing in kept:
        thing.close()
