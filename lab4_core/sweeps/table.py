"""The table of a sweep: one row per point, read back from the points' files, as CSV, HTML and parquet."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab4_core.paths import replacing, write_text
from lab4_core.sweeps.point import RESULTS, TIMINGS, read_status


def table(points: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row per point: its keys, how it ended and its results; timings last."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    rows = []
    for point, folder in zip(points, folders):
        status = read_status(folder) or {"status": "waiting"}
        cells = {k: cell(point.get(k)) for k in keys}
        # a column of the point and one of the result may share a name ("steps"): the point's is what was requested
        results = {k if k not in cells else f"{k}_done": status.get(k) for k in (*RESULTS, *TIMINGS)}
        rows.append(
            {"point": folder.name, **cells, "status": status["status"], "reason": status.get("reason"), **results}
        )
    return rows


def write_table(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """sweep.csv, and sweep.html with every cell escaped."""
    with replacing(out / "sweep.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    lines = [[*rows[0]], *([_shown(v) for v in row.values()] for row in rows)]
    body = "\n".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in line) + "</tr>"
        for line, tag in zip(lines, ["th", *["td"] * len(rows)])
    )
    write_text(
        out / "sweep.html", f'<!doctype html><meta charset="utf-8"><title>sweep</title><table>\n{body}\n</table>\n'
    )


def write_parquet(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """sweep.parquet: numbers stay numbers and missing values stay missing. A column of mixed types becomes text."""
    import pyarrow
    import pyarrow.parquet

    columns = {key: [row[key] for row in rows] for key in rows[0]}
    for key, values in columns.items():
        if len({float if type(v) is int else type(v) for v in values if v is not None}) > 1:
            columns[key] = [None if v is None else str(v) for v in values]
    with replacing(out / "sweep.parquet") as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)


def cell(value: Any) -> Any:
    """A value as one cell: mappings and lists become JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list, tuple)) else value


def cell_text(value: Any) -> str:
    """A cell of the table as its CSV has it, so that a table read back can be compared with one that was not."""
    return "" if value is None else str(cell(value))


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
