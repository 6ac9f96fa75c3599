"""Safetensors files: tensors and text, nothing that runs, so one can be opened without trusting its sender."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lab4_core.errors import Lab4Error
from lab4_core.paths import check_file

SHIPPED = Path(__file__).parent / "trained" / "dancer.safetensors"
KEY = "lab4"  # name of the header's entry, JSON text


def read(path: str | os.PathLike) -> tuple[Any, dict[str, Tensor]]:
    """What this program wrote into a file's header (None if nothing), and the file's tensors, on the CPU.

    Raises `Lab4Error` for a file that is missing or damaged.
    """
    path = Path(path)
    check_file(path, f"weights {path}")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(KEY, "null"))
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except (SafetensorError, ValueError, RecursionError, OSError) as e:
        raise Lab4Error(f"weights {path}: not a whole safetensors file ({e})") from e


def digest(path: str | os.PathLike) -> str:
    """12 hex digits of a file's content. Raises `Lab4Error` where it cannot be read."""
    path = Path(path)
    check_file(path, f"weights {path}")
    try:
        status = path.stat()
        return _digest(path, status.st_mtime_ns, status.st_size)
    except OSError as e:
        raise Lab4Error(f"weights {path}: cannot be read ({e.strerror or e})") from e


@lru_cache
def _digest(path: Path, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
