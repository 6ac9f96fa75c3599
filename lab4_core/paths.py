"""Where things are, and how files are written whole. Notebooks, commands and papermill all start in different
directories, so every path that is not the user's own comes from here."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab4_core.errors import Lab4Error

ROOT = Path(__file__).resolve().parent.parent
STALE = 3600.0  # seconds: a temporary file untouched for this long was left by a killed process
NOTEBOOKS = ROOT / "notebooks"
BENCHMARKS = ROOT / "benchmarks"
CACHE = Path(os.environ.get("LAB4_CACHE") or ROOT / "data" / "cache").expanduser()


def runs_dir(out: str | os.PathLike | None = None) -> Path:
    """The folder that holds run directories: `out`, else `$LAB4_RUNS`, else `runs/` of the checkout."""
    return Path(out or os.environ.get("LAB4_RUNS") or ROOT / "runs").expanduser().resolve()


def check_file(path: Path, where: str) -> None:
    """Raise `Lab4Error`, beginning with `where`, for a path that is not a file."""
    if not path.is_file():
        raise Lab4Error(f"{where}: {'a folder, expected a file' if path.is_dir() else 'no such file'}")


@contextmanager
def replacing(path: str | os.PathLike, previous: str = "") -> Iterator[Path]:
    """Write a file beside its final place and move it there when it is whole. `previous`: a name under which the old
    file is kept; at every instant one of the two exists.

    Yields the temporary path (same folder, same suffix). If the body raises, the old file is
    untouched and the temporary one is gone; one that a killed process left is deleted by the next process that writes
    the file at least an hour later. A full disk or a read-only folder becomes a `Lab4Error`.
    """
    path = Path(path)
    if not path.name:
        raise Lab4Error(f"cannot write {path}: expected the name of a file")
    temporary = in_the_making(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path)
        yield temporary
        with open(temporary, "rb+") as f:  # on the disk before it takes the name (Windows wants it open for writing)
            os.fsync(f.fileno())
        if previous and path.exists():
            os.replace(path, path.with_name(previous))
        os.replace(temporary, path)
    except OSError as e:
        raise Lab4Error(
            f"cannot write {path}: {e.strerror or e}; expected a folder that can be written to and has room left"
        ) from e
    finally:
        with suppress(OSError):  # a parent that is a file
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """`Path.write_text`, whole or not at all. What is not Unicode (a file name of undecodable bytes) is written as
    escapes."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def free_memory() -> int:
    """Bytes that a process could still get (the system's file cache counts as free); if the system does not say, all
    the memory there is, or more than any machine has."""
    with suppress(OSError, ValueError, AttributeError):
        return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return 2**62


def in_the_making(path: Path) -> Path:
    """A new name beside `path` for what is to become it: hidden, with the same suffix."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")


def remove_stale(path: Path) -> None:
    """Delete what a killed process left of `path`: an unfinished file or folder that has not been touched for an
    hour."""
    pattern = rf"\.{re.escape(path.stem)}\.[0-9a-f]{{8}}{re.escape(path.suffix)}"
    with suppress(OSError):
        for old in path.parent.iterdir():
            if not re.fullmatch(pattern, old.name) or old.is_symlink():
                continue
            touched = max(os.stat(p).st_mtime for p in (old, *(folder for folder, _, _ in os.walk(old))))
            if time.time() - touched >= STALE:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


def remove_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Delete the temporary files that killed processes left in `folder` itself. Only for a process that is alone there;
    where others may be writing, give `older_than` seconds."""
    with suppress(OSError):
        for path in folder.iterdir():
            temporary = re.fullmatch(r"\..+\.[0-9a-f]{8}(\.\w+)?", path.name) and path.is_file()
            if temporary and time.time() - path.stat().st_mtime >= older_than:
                path.unlink(missing_ok=True)
