"""Writes the LAB4 layout: any dataset of pose images, as the lab's folders of PNGs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab4_core.data.png import pool, write_png
from lab4_core.data.store import VideoData
from lab4_core.errors import Lab4Error
from lab4_core.paths import in_the_making, remove_stale


def check_new(root: str | os.PathLike) -> Path:
    """The absolute path of a folder to be made. Raises `Lab4Error` for a file or a folder that is not empty."""
    root = Path(root).expanduser().resolve()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        what = "is not empty" if root.is_dir() else "is a file"
        raise Lab4Error(f"{root} {what}: expected the name of a new folder for the dataset")
    return root


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to build in, beside `root`: it is renamed to `root` when the body ends, and deleted when it raises.
    One left by a killed process is deleted by the next that writes to `root`, once it is an hour old."""
    building = in_the_making(root)
    try:
        building.mkdir(parents=True)
        remove_stale(root)
        yield building
        if root.exists():
            root.rmdir()  # an empty folder gives way; for one filled meanwhile this raises
        building.rename(root)
    except OSError as e:
        raise Lab4Error(
            f"cannot write {root}: {e.strerror or e}; expected a place that can be written to and has room left"
        ) from e
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_lab4(data: VideoData, root: str | os.PathLike) -> Path:
    """Write a dataset of pose images in the LAB4 layout into a new folder, and return it.

    The index at which each clip starts goes to clips.csv. Everything is built beside `root` and moved there once
    complete. Loading it gives the same bytes and digest.
    Raises `Lab4Error` for a folder that is not empty, numeric conditions, or a full disk.
    """
    root = check_new(root)
    if data.train.cond.ndim != 4 or data.val.cond.ndim != 4:
        raise Lab4Error(f"dataset {data.name!r} has conditions that are no pictures: the LAB4 layout cannot hold them")
    with new_folder(root) as building, pool() as threads:
        folders = {}
        for split in ("train", "val"):
            clips, folder = getattr(data, split), building / split
            folders |= {folder / f"{split}_img": clips.frames, folder / f"{split}_label": clips.cond}
            if split == "train" or len(clips.starts) > 1:
                folder.mkdir()
                lines = ["start", *map(str, clips.starts)]
                (folder / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for clip in data.test:
            for part, pictures in (("img", clip.first[:1]), ("label", clip.cond)):
                folders[building / "test" / f"test_{part}" / clip.name] = pictures
        for folder, pictures in folders.items():
            folder.mkdir(parents=True)
            list(threads.map(write_png, [folder / f"{i}.png" for i in range(len(pictures))], pictures.numpy()))
    return root
