"""`python -m benchmarks.table FILE` writes what `lab4 bench --json FILE` measured into benchmarks/README.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lab4_core.bench.speed import cells

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEAD = ["", "this library", "plain loop", "ratio", "range", "GFLOP/s"]


def table(found: dict[str, Any]) -> str:
    """Markdown of a measurement."""
    rows = [HEAD, ["---"] * len(HEAD), *(cells(row) for row in found["rows"])]
    machine = f"{found['device']}, torch {found['torch']}; `auto` is {found['auto']} here."
    quick = " **A quick check, no measurement.**" if found["quick"] else ""
    return "\n".join([machine + quick, "", *("| " + " | ".join(row) + " |" for row in rows)])


def put(text: str, measured: str) -> str:
    """The README with another table between its two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{measured}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(put(README.read_text(), table(json.loads(Path(sys.argv[1]).read_text()))))
