"""The progress of a sweep's points, read from the files that they write, wherever they run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lab4_core.errors import Lab4Error
from lab4_core.runlog import Run
from lab4_core.sweeps.point import read_status

EVERY = 30.0  # seconds between two lines


@contextmanager
def watching(names: Mapping[Path, str], say: Callable[[str], None], every: float = EVERY) -> Iterator[None]:
    """While the body runs, say one line about the points under way every `every` seconds, if anything is new. names
    maps their folders to what to call them."""
    over = threading.Event()

    def watch() -> None:
        before = ""
        while not over.wait(every):
            now = ", ".join(f"{name} {at}" for folder, name in names.items() if (at := under_way(folder)))
            if now and now != before:
                say(f"sweep: under way: {now}")
            before = now

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def under_way(folder: Path) -> str:
    """The last epoch that a running point has logged, as "epoch 7/20"; "" before the first and once it has ended."""
    if read_status(folder).get("status") in ("finished", "failed"):
        return ""
    for log in (folder / "run").glob("*/metrics.jsonl"):
        with suppress(Lab4Error, KeyError, TypeError):  # a damaged log says nothing
            run = Run(log.parent)
            if epochs := run.metrics("epoch"):
                return f"epoch {epochs[-1]['epoch'] + 1}/{run.config.epochs}"
    return ""
