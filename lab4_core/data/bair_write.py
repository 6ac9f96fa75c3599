"""Writes the BAIR layout: any dataset with 7 numbers per frame, as the lab's folders of PNGs and tables."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lab4_core.data.bair_folder import TABLES
from lab4_core.data.lab4_write import check_new, new_folder
from lab4_core.data.png import pool, write_png
from lab4_core.data.store import VideoData
from lab4_core.errors import Lab4Error

PER_FOLDER = 256  # sequences per traj_<a>_to_<b>, as in the release


def place(number: int) -> str:
    """The folder of sequence `number` within its split."""
    first = number // PER_FOLDER * PER_FOLDER
    return f"traj_{first}_to_{first + PER_FOLDER - 1}/{number - first}"


def write_sequence(folder: Path, frames: np.ndarray, cond: np.ndarray) -> None:
    """A sequence as a new folder: frames uint8 (T, 3, H, W), cond float32 (T, 7), every number in full precision."""
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        write_png(folder / f"{i}.png", frame)
    edges = np.cumsum([0, *TABLES.values()])
    for name, begin, end in zip(TABLES, edges, edges[1:]):
        rows = [",".join(str(v) for v in row) for row in cond[:, begin:end].astype(np.float32)]
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_bair(data: VideoData, root: str | os.PathLike) -> Path:
    """Write a dataset as train, validate and test in the BAIR layout into a new folder, and return it.

    Everything is built beside `root` and moved there once complete. Loading it gives the same bytes, and the same
    digest if the test clips already have the layout's names. Raises `Lab4Error` for a folder that is not empty,
    conditions that are not 7 numbers, test clips without their truth, or a full disk.
    """
    root = check_new(root)
    if data.train.cond.shape[1:] != (sum(TABLES.values()),):
        raise Lab4Error(
            f"dataset {data.name!r} has conditions of shape {tuple(data.train.cond.shape[1:])}: the BAIR layout holds "
            f"{sum(TABLES.values())} numbers a frame"
        )
    if any(clip.truth is None for clip in data.test):
        raise Lab4Error(f"dataset {data.name!r} knows only the beginning of its test clips: expected all frames")
    test = [(clip.truth, clip.cond) for clip in data.test]
    with new_folder(root) as building, pool() as threads:
        for split, clips in {"train": data.train.apart(), "validate": data.val.apart(), "test": test}.items():
            folders = [building / split / place(i) for i in range(len(clips))]
            list(threads.map(lambda folder, clip: write_sequence(folder, *(x.numpy() for x in clip)), folders, clips))
    return root
