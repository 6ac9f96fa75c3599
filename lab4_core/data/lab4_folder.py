"""LAB4_Dataset: the lab's folders of PNGs, read into one uint8 store.

    root/train/train_img/*.png   root/train/train_label/*.png      frames and their pose images
    root/val/val_img/*.png       root/val/val_label/*.png          one clip
    root/test/test_img/<i>/*.png root/test/test_label/<i>/*.png    one first frame, all pose images; any number of clips

Frames are ordered by the integer at the end of their names (`12.png`, `frame12.png`), not alphabetically.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from glob import iglob
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab4_core import paths
from lab4_core.data import cache
from lab4_core.data.cuts import find_starts
from lab4_core.data.png import pool, read_png, read_size
from lab4_core.data.store import Dataset, VideoData, check_memory
from lab4_core.errors import Lab4Error
from lab4_core.progress import Progress
from lab4_core.registry import check, register

LAYOUT = "expected the LAB4 layout (train/train_img, train/train_label, val/val_img, val/val_label, and maybe test)"


@register("data", "lab4")
@dataclass(frozen=True, kw_only=True)
class Lab4Folder(Dataset):
    """The lab's dataset under `root` (a relative path starts at the working directory, else at the checkout).

    PNGs are resized to height x width, bilinear with PIL's antialiasing as in the lab. Cuts between training clips:
    every `clip_length` frames if given, else from the file train/clips.csv (column `start`), else found in the
    pictures (cuts.py). The decoded frames are cached; a file added, removed or changed is noticed by name, size and
    time. Raises `Lab4Error` for anything missing, broken or out of place, naming it.
    """

    root: str = ""
    height: int = 32
    width: int = 64
    clip_length: int | None = None

    def __post_init__(self):
        for name in ("height", "width"):
            check(1 <= getattr(self, name) <= 4096, f"data lab4: {name}", getattr(self, name), "1 to 4096 pixels")
        length = self.clip_length
        check(length is None or length >= 2, "data lab4: clip_length", length, "2 or more")

    def load(self) -> VideoData:
        files = Files.find(find_root("lab4", self.root, LAYOUT, is_root, "train/train_img"))
        settings = json.dumps([1, self.height, self.width, self.clip_length])
        return cache.load("lab4", f"{files.root} {settings}", settings + files.manifest(), lambda: self.decode(files))

    def decode(self, files: Files) -> cache.Arrays:
        """All pictures, in parallel."""
        total, done, arrays = sum(map(len, files.folders.values())), 0, {}
        progress = Progress(f"reading {files.root.name}")
        progress.line(f"{total} PNGs (once; then cached)")
        with pool() as threads:
            for key, listing in files.folders.items():
                check_memory(f"data lab4: {key}", len(listing), self.height, self.width)
                size = read_size(listing[0].path)
                read = functools.partial(read_png, height=self.height, width=self.width, size=size)
                arrays[key] = np.empty((len(listing), 3, self.height, self.width), np.uint8)
                for i, picture in enumerate(threads.map(read, [png.path for png in listing])):
                    arrays[key][i] = picture.transpose(2, 0, 1)
                    progress.update((done := done + 1) / total)
        progress.close()
        for split in ("train", "val"):
            starts = self.starts(split, arrays, files)
            arrays[f"{split}/starts"] = np.array(starts, np.int64)
        return arrays

    def starts(self, split: str, arrays: cache.Arrays, files: Files) -> tuple[int, ...]:
        frames = arrays[f"{split}/frames"]
        if split == "train" and self.clip_length:
            return tuple(range(0, len(frames), self.clip_length))
        if split in files.sidecars:
            return read_starts(files.sidecars[split], len(frames))
        if split == "val":  # the lab's validation is one clip, whatever it shows
            return (0,)
        numbers = np.array([f.number for f in files.folders["train/frames"]])
        return find_starts(frames, numbers, usual=len(arrays["val/frames"]))


class PNG(NamedTuple):
    number: int
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Files:
    """The files under a root: found, paired and counted, but not decoded."""

    root: Path
    folders: dict[str, list[PNG]]  # the files behind each array of the store
    sidecars: dict[str, Path]  # split: its clips.csv

    @staticmethod
    def find(root: Path) -> Files:
        """Raises `Lab4Error` for a missing or empty folder, and for a frame without a label or the reverse."""
        folders = {}
        for split in ("train", "val"):
            images, labels = root / split / f"{split}_img", root / split / f"{split}_label"
            frames, poses = list_pngs(images, root), list_pngs(labels, root)
            same([f.number for f in frames], [p.number for p in poses], images, labels, "frame")
            folders |= {f"{split}/frames": frames, f"{split}/cond": poses}
        if (root / "test").exists():
            images, labels = root / "test" / "test_img", root / "test" / "test_label"
            names = subfolders(images)
            same(names, subfolders(labels), images, labels, "folder")
            for name in names:
                first, poses = list_pngs(images / name, root)[:1], list_pngs(labels / name, root)
                folders |= {f"test/{name}/first": first, f"test/{name}/cond": poses}
        sidecars = {s: p for s in ("train", "val") if (p := root / s / "clips.csv").exists()}
        for path in sidecars.values():
            inside_root(path, root)
        return Files(root, folders, sidecars)

    def manifest(self) -> str:
        """Names, sizes and times of all files, as text: it changes when a file does."""
        pngs = [png for listing in self.folders.values() for png in listing]
        return json.dumps([pngs, {s: read_sidecar(p) for s, p in self.sidecars.items()}])


# ------------------------------------------------------------------ finding


def find_root(kind: str, root: str, layout: str, fits: Callable[[Path], bool], needs: str) -> Path:
    """The folder `root`. Raises `Lab4Error` unless it fits, saying what is wrong and which folder nearby would fit."""
    if not root:
        raise Lab4Error(f"data {kind}: root = '': {layout}; pass --data ROOT or set {kind.upper()}_DATA")
    path = existing_folder(root, layout)
    if fits(path):
        return path
    if is_root(path):
        hint = "it is one in the LAB4 layout, for the pose models (--model compact)"
    elif any(iglob("t*/traj_*/", root_dir=path)):
        hint = "it is one in the BAIR layout, for robot pushing (--model svg)"
    else:
        near = [*sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != "."), *list(path.parents)[:3]]
        better = next((p for p in near if fits(p)), None)
        hint = f"did you mean {str(better)!r}?" if better else f"it holds {inside(path)}"
    raise Lab4Error(f"data root {str(path)!r} has no folder {needs}: {layout}; {hint}")


def existing_folder(root: str, layout: str) -> Path:
    """The absolute path of a dataset's root, given relative to the working directory or to the checkout."""
    try:
        path = Path(root).expanduser()
        if not path.is_absolute() and not path.exists():
            path = paths.ROOT / path
        if path.is_dir():
            return path.resolve()
        what = "is not a folder" if path.exists() else "does not exist"
    except (OSError, ValueError, RuntimeError) as e:  # too long, a zero byte, no such user, circular links
        what = f"cannot be one ({e})"
    raise Lab4Error(f"data root {root!r} {what}: {layout}")


def is_root(path: Path) -> bool:
    return os.path.isdir(path / "train" / "train_img")  # unlike Path.is_dir, False where nothing may be read


def inside(path: Path) -> str:
    return some(sorted(p.name for p in path.iterdir())) or "nothing"


def some(names: Iterable, most: int = 5) -> str:
    """The first few names, and how many there are in all if more."""
    names = [str(n) for n in names]
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def same(a: list, b: list, folder_a: Path, folder_b: Path, what: str) -> None:
    """Raise `Lab4Error` unless both sides hold the same numbers or names, naming a few without a partner."""
    for here, there, has, lacks in ((a, set(b), folder_a, folder_b), (b, set(a), folder_b, folder_a)):
        alone = [x for x in here if x not in there]
        if alone:
            raise Lab4Error(
                f"{len(alone)} {what}{'s' * (len(alone) > 1)} of {has} without a partner in {lacks}: {some(alone)}; "
                "expected a label with the name of every frame"
            )


def subfolders(path: Path) -> list[str]:
    """The names of numbered folders, in numerical order."""
    if not path.is_dir():
        raise Lab4Error(f"{path} is not a folder: expected test/test_img/<i> and test/test_label/<i>, or no test")
    numbered = [(number_of(p), p.name) for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return [name for _, name in sorted(numbered)]


def number_of(path: Path) -> int:
    """The integer a name ends with."""
    digits = re.search(r"(\d+)$", path.stem)
    if not digits:
        raise Lab4Error(f"{path}: expected a name that ends with its number, such as 12.png or frame12.png")
    number = int(digits[1])
    if number >= 2**63:
        raise Lab4Error(f"{path}: frame {number}: expected a number below 2 to the power of 63")
    return number


def list_pngs(folder: Path, root: Path) -> list[PNG]:
    """The PNGs of a folder in numerical order; gaps are allowed, two files with the same number are not."""
    if not folder.is_dir():
        raise Lab4Error(f"{folder} does not exist or is not a folder: {LAYOUT}")
    inside_root(folder, root)
    found: dict[int, PNG] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.lower().endswith(".png"):
                continue
            path = Path(entry.path)
            if entry.is_symlink():
                inside_root(path, root)
            try:
                stat = entry.stat()
            except OSError as e:
                raise Lab4Error(f"{path} cannot be read: {e.strerror}; expected a PNG") from e
            number = number_of(path)
            if number in found:
                twin = Path(found[number].path).name
                raise Lab4Error(f"{path} has the same number as {twin}: expected one file for frame {number}")
            found[number] = PNG(number, entry.path, stat.st_size, stat.st_mtime_ns)
    if not found:
        raise Lab4Error(f"{folder} holds no PNG: expected files such as 0.png or frame0.png; it holds {inside(folder)}")
    return [found[n] for n in sorted(found)]


def inside_root(path: Path, root: Path) -> None:
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as e:
        raise Lab4Error(f"{path} is a link that leads nowhere: expected a file inside the data root {root}") from e
    if not target.is_relative_to(root):
        raise Lab4Error(f"{path} is a link to {target}: expected a file inside the data root {root}")


def read_sidecar(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > 10_000_000:  # reading a pipe would block for ever
            raise Lab4Error(f"{path}: expected a small text file with a column 'start'")
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise Lab4Error(f"{path} cannot be read: {e.strerror}; expected a text file with a column 'start'") from e
    except UnicodeDecodeError as e:
        raise Lab4Error(f"{path}: not plain text at byte {e.start}; expected a column 'start'") from e


def read_starts(path: Path, n_frames: int) -> tuple[int, ...]:
    """The column `start` of a clips.csv: 0 first, ascending, below the number of frames."""
    expected = f"{path}: expected a column 'start' that begins with 0 and ascends, below {n_frames} frames"
    lines = read_sidecar(path).splitlines()
    try:
        starts = tuple(int(row["start"]) for row in csv.DictReader(lines))
    except (KeyError, TypeError, ValueError, csv.Error) as e:
        raise Lab4Error(f"{expected}, in whole numbers") from e
    if not starts or starts[0] != 0 or starts[-1] >= n_frames or any(b <= a for a, b in itertools.pairwise(starts)):
        raise Lab4Error(f"{expected}; found {some(starts) or 'no row'}")
    return starts
