"""`python -m benchmarks.table FILE` writes what `lab4 bench --json FILE` measured into benchmarks/README.md, where each
default arithmetic (`auto`) has its own table: what wins on a processor with bf16 says little about one without."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lab4_core.bench.speed import cells

README = Path(__file__).with_name("README.md")
MARKS = "<!-- measured, {auto}: begin -->", "<!-- measured, {auto}: end -->"
HEAD = ["", "this library", "plain loop", "ratio", "range", "GFLOP/s"]


def table(found: dict[str, Any]) -> str:
    """Markdown of a measurement."""
    rows = [HEAD, ["---"] * len(HEAD), *(cells(row) for row in found["rows"])]
    machine = f"{found['device']}, torch {found['torch']}; `auto` is {found['auto']} here."
    quick = " **A quick check, no measurement.**" if found["quick"] else ""
    return "\n".join([machine + quick, "", *("| " + " | ".join(row) + " |" for row in rows)])


def put(text: str, found: dict[str, Any]) -> str:
    """The README with a measurement between the marks of its arithmetic."""
    begin, end = (mark.format(auto=found["auto"]) for mark in MARKS)
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table(found)}\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    README.write_text(put(README.read_text(), json.loads(Path(sys.argv[1]).read_text())))
