"""The table of results: one row per run, failed ones with their reason."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab4_core.plots.style import as_runs, labels

COLUMNS = {
    "run": "", "annealing": "", "PSNR (dB)": ".2f", "SSIM": ".3f", "repeat first (dB)": ".2f",
    "copy previous (dB)": ".2f", "best epoch": "d", "minutes": ".1f", "status": "",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of plain values by column, displayed as an HTML table; every text is escaped.

    columns: name -> the format of its numbers, such as ".2f", or "" for text.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, str]
    caption: str = ""

    def __repr__(self) -> str:  # constant, so that a notebook's stored output can be compared
        return "Table"

    def to_html(self) -> str:
        aligned = {c: "right" if number else "left" for c, number in self.columns.items()}
        head = "".join(f'<th scope="col" style="text-align:{a}">{html.escape(c)}</th>' for c, a in aligned.items())
        body = "".join(
            "<tr>" + "".join(cell(row.get(c), f, i == 0) for i, (c, f) in enumerate(self.columns.items())) + "</tr>"
            for row in self.rows
        )
        # as wide as it needs to be: a caption of width 0 neither widens its table nor is squeezed to its width
        words = f'<div style="width:max-content;max-width:clamp(18rem,50vw,44rem)">{html.escape(self.caption)}</div>'
        caption = f'<caption style="text-align:left;width:0">{words}</caption>' if self.caption else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_markdown(self) -> str:
        lines = [list(self.columns), ["---"] * len(self.columns)]
        lines += [[markdown(text(row.get(c), f)) for c, f in self.columns.items()] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        return {"text/html": self.to_html(), "text/markdown": self.to_markdown(), "text/plain": repr(self)}


def text(value: Any, number: str) -> str:
    """A value as text; a dash for an unknown one."""
    return "–" if value is None else format(value, number) if isinstance(value, (int, float)) else str(value)


def markdown(words: str) -> str:
    """Text escaped so that it stays text, and within one cell of a Markdown table."""
    return html.escape(words, quote=False).replace("|", r"\|").replace("\n", " ").replace("$", "&#36;")


def cell(value: Any, number: str, first: bool = False) -> str:
    """first: it names its row."""
    begin, end = ('th scope="row"', "th") if first else ("td", "td")
    words, look = html.escape(text(value, number)), "font-weight:normal;" * first
    if not isinstance(value, str):
        return f'<{begin} style="{look}text-align:right">{words}</{end}>'
    words = words.replace("/", "/<wbr>").replace("_", "_<wbr>")  # a path may break across lines, a word may not
    return f'<{begin} style="{look}text-align:left;overflow-wrap:break-word">{words}</{end}>'


def annealing_words(config: Any) -> str:
    """ "cyclical, 10 cycles, beta 0 to 1" and the like."""
    part, beta = config.annealing, config.beta
    words = [part.kind]
    if hasattr(part, "cycles"):
        words.append(f"{part.cycles} cycles")
    if hasattr(part, "stop"):
        low = f"{beta * part.start:g} to " if hasattr(part, "start") else ""
        words.append(f"beta {low}{beta * part.stop:g}")
    return ", ".join(words)


def results_table(runs: Any) -> Table:
    """A row for each run, in the order given: scores of its best weights, its baselines, time and status.

    Epochs count from 1. A run without a result is "not finished"; a failed one shows its reason.
    """
    runs = as_runs(runs)
    rows = []
    for run, name in zip(runs, labels(runs)):
        result = run.result
        base = result.get("baselines", {})
        status, reason = result.get("status", "not finished"), result.get("reason")
        epoch, seconds = result.get("best_epoch", -1), result.get("seconds")
        values = (
            name, annealing_words(run.config), result.get("psnr"), result.get("ssim"),
            base.get("repeat_first", {}).get("psnr"), base.get("copy_previous", {}).get("psnr"),
            epoch + 1 if epoch >= 0 else None, None if seconds is None else seconds / 60,
            f"{status}: {reason}" if reason else status,
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return Table(rows, COLUMNS, "Validation, mean over predicted frames; z from the prior")
