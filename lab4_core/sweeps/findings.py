"""What was measured for the claims, kept beside them, and the tables that show it.

results/dancer/NAME.csv, results/lab4/NAME.csv    the finished runs of the claim NAME.yaml on each dataset
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab4_core.paths import ROOT, replacing
from lab4_core.sweeps.claims import DATASETS, FOLDER, Claim, finished_row, judge, overall


def results_path(claim: Claim, folder: Path, data: str) -> Path:
    return folder / "results" / data / f"{claim.name}.csv"


def write_results(claim: Claim, rows: Sequence[Mapping[str, Any]], folder: Path = FOLDER, data: str = "dancer") -> None:
    """Keep a sweep's finished rows beside the claim, without what depends on the machine. Points that the sweep has
    not finished keep their earlier measurement."""
    points = claim.on(data).points()
    axes = list(dict.fromkeys(k for point in points for k in point))
    kept = ("status", "psnr", "ssim", "repeat_first_psnr", "copy_previous_psnr")
    path = results_path(claim, folder, data)
    new, before = ([finished_row(table, point) for point in points] for table in (rows, read_table(path)))
    if not any(new):
        return
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, ["point", *axes, *kept], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for pair in zip(new, before) if (row := pair[0] or pair[1]))


def read_table(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a sweep's CSV, every cell as text; [] if there is no such file."""
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def read_results(claim: Claim, folder: Path = FOLDER, data: str = "dancer") -> list[dict[str, Any]]:
    """The measured rows of a claim, [] if there are none."""
    return read_table(results_path(claim, folder, data))


def by_dataset(claim: Claim, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of `judge` by the name of each dataset on which the claim was measured (and always the dancer), each
    with that name as "data" and the command that measures it."""
    found = {}
    for data, name in DATASETS.items():
        if data == "dancer" or results_path(claim, folder, data).is_file():
            command = f"lab4 claims {shown_path(folder)}/{claim.name}.yaml --run"
            command += "" if data == "dancer" else " --data LAB4_Dataset"
            rows = judge(claim.on(data), read_results(claim, folder, data))
            found[name] = [{**row, "data": name, "command": command} for row in rows]
    return found


def judged_on_all(claim: Claim, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The rows of `by_dataset` in one list."""
    return [row for rows in by_dataset(claim, folder).values() for row in rows]


def shown_path(folder: Path) -> str:
    """A folder's path, relative to the checkout's root if it lies inside."""
    folder = Path(folder).resolve()
    return folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else folder.as_posix()


TABLE = {"claim": "", "source": "", "compared": "", "frames": "", "pairs": "d", "effect (dB)": "+.2f",
         "95 % interval": "", "verdict": "", "command": ""}  # fmt: skip


def table_rows(judged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `judged_on_all` as the columns of `TABLE`."""
    return [
        {
            **row, "compared": f"{row['compared']}{', ' + row['where'] if row['where'] else ''}", "frames": row["data"],
            "effect (dB)": row["effect"],
            "95 % interval": None if row["low"] is None else f"{row['low']:+.2f} to {row['high']:+.2f}",
        }
        for row in judged
    ]  # fmt: skip


FINDINGS = {"claim": "", "source": "", "frames": "", "measured": "", "verdict": "", "file": ""}


def finding_rows(claims: Sequence[Claim], folder: Path = FOLDER) -> list[dict[str, Any]]:
    """One short row per claim and dataset: what was measured, in words, and the overall verdict."""
    found = []
    for claim in claims:
        for name, rows in by_dataset(claim, folder).items():
            measured = "; ".join(short(row) for row in rows if row["low"] is not None)
            found.append({"claim": claim.claim, "source": claim.source, "frames": name, "measured": measured or None,
                          "verdict": overall(rows), "file": f"{claim.name}.yaml"})  # fmt: skip
    return found


def short(row: Mapping[str, Any]) -> str:
    level = row["compared"].split(" against ")[0]
    return f"{level} {row['effect']:+.2f} dB ({row['low']:+.2f} to {row['high']:+.2f}, {row['pairs']} seeds)"
