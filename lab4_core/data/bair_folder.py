"""BAIR robot pushing (small) as the lab's earlier version ships it: one folder per sequence, read into one uint8 store.

    root/train/traj_<a>_to_<b>/<sequence>/{0..29}.png   actions.csv (30 x 4)   endeffector_positions.csv (30 x 3)
    root/test/…                                         and in some copies root/validate/…

A frame's condition is its row of both tables, side by side: 7 numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from glob import iglob
from pathlib import Path

import numpy as np

from lab4_core import paths
from lab4_core.data import cache
from lab4_core.data.lab4_folder import PNG, find_root, inside_root, list_pngs
from lab4_core.data.png import pool, read_png, read_size
from lab4_core.data.store import Dataset, VideoData
from lab4_core.errors import Lab4Error
from lab4_core.progress import Progress
from lab4_core.registry import check, register

TABLES = {"actions.csv": 4, "endeffector_positions.csv": 3}  # file: numbers per row
NAMES = {"train": ("train",), "val": ("validate", "validation", "val", "test"), "test": ("test",)}
LAYOUT = "expected the BAIR layout (train and test, in them traj_<a>_to_<b>/<sequence>/0.png …, " + ", ".join(TABLES)
LAYOUT += "; or the TFRecords, once converted by lab4 data --from_tfrecord DIR --out ROOT)"
GIVEN = 2  # frames at the start of a test clip that are given


@register("data", "bair")
@dataclass(frozen=True, kw_only=True)
class BairFolder(Dataset):
    """The BAIR sequences under `root` (a relative path starts at the working directory, else at the checkout).

    PNGs are resized to height x width, bilinear. clips, val_clips, test_clips: use only this many sequences, the
    first ones of the split. Validation is the folder `validate` (`validation`, `val`) if there is one, else `test`. If
    the root has only `train` or only `test` (a sample), training and scoring use the same sequences, and the
    dataset's name says so. The decoded frames are cached; a file added, removed or changed is noticed by name, size
    and time. Raises `Lab4Error` for anything missing, broken or out of place, naming the file and the row.
    """

    root: str = ""
    height: int = 64
    width: int = 64
    clips: int | None = None
    val_clips: int | None = None
    test_clips: int | None = None

    def __post_init__(self):
        for name in ("height", "width"):
            check(1 <= getattr(self, name) <= 4096, f"data bair: {name}", getattr(self, name), "1 to 4096 pixels")
        for name in ("clips", "val_clips", "test_clips"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"data bair: {name}", value, "1 or more, or nothing for all")

    def load(self) -> VideoData:
        root = find_root("bair", self.root, LAYOUT, is_bair_root, "train/traj_… or test/traj_…")
        folders = {split: find_split(root, split) for split in NAMES}
        only = folders["val"] or folders["train"]
        name = "bair" if folders["train"] and folders["val"] else f"bair ({only.name} alone: trained and scored on it)"
        folders = {split: folder or only for split, folder in folders.items()}
        limits = {"train": self.clips, "val": self.val_clips, "test": self.test_clips}
        splits = {split: sequences(folder, root, limits[split]) for split, folder in folders.items()}
        self.check_memory(splits)
        settings = json.dumps([1, self.height, self.width, limits])
        manifest = settings + "".join(s.stamp() for listing in splits.values() for s in listing)
        data = cache.load("bair", f"{root} {settings}", manifest, lambda: self.decode(root.name, splits))
        data = replace(data, name=name)
        if folders["val"].name in ("train", "test"):
            data = replace(data, val=replace(data.val, called=f"{folders['val'].name}, there is no validate"))
        return data

    def check_memory(self, splits: dict[str, list[Sequence]]) -> None:
        """Raise `Lab4Error` if the frames do not fit into memory, before hours of reading end in a crash."""
        frames = sum(len(s.pngs) for listing in splits.values() for s in listing)
        need, have = frames * 3 * self.height * self.width, paths.free_memory()
        if 1.1 * need > have:
            each = need / max(1, sum(map(len, splits.values())))
            raise Lab4Error(
                f"data bair: {frames:,} frames take {need / 1e9:.1f} GB of memory and {have / 1e9:.1f} GB are free: "
                f"expected fewer, as with --set data.clips={int(0.5 * have / each)}"
            )

    def decode(self, name: str, splits: dict[str, list[Sequence]]) -> cache.Arrays:
        """All pictures and tables, read in parallel."""
        total, done, arrays = sum(map(len, splits.values())), 0, {}
        progress = Progress(f"reading {name}")
        progress.line(f"{total} sequences (once; then cached)")
        with pool() as threads:
            for split, listing in splits.items():
                lengths = [len(s.pngs) for s in listing]
                starts = np.cumsum([0, *lengths])
                frames = np.empty((starts[-1], 3, self.height, self.width), np.uint8)
                cond = np.empty((starts[-1], sum(TABLES.values())), np.float32)
                decoded = threads.map(lambda s: s.read(self.height, self.width), listing)
                for begin, end, (pictures, numbers) in zip(starts, starts[1:], decoded):
                    frames[begin:end], cond[begin:end] = pictures, numbers
                    progress.update((done := done + 1) / total)
                if split != "test":
                    arrays |= {f"{split}/frames": frames, f"{split}/cond": cond, f"{split}/starts": starts[:-1]}
                    continue
                for s, begin, end in zip(listing, starts, starts[1:]):
                    clip = f"test/{s.name}"
                    arrays |= {f"{clip}/first": frames[begin : begin + GIVEN], f"{clip}/cond": cond[begin:end],
                               f"{clip}/truth": frames[begin:end]}  # fmt: skip
        progress.close()
        return arrays


@dataclass(frozen=True)
class Sequence:
    """One folder of frames 0, 1, 2, … and its two tables."""

    folder: Path
    pngs: list[PNG]

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}-{self.folder.name}"

    def stamp(self) -> str:
        """A hash of the names, sizes and times of its files."""
        stats = {t: (self.folder / t).stat() for t in TABLES}
        tables = [(t, s.st_size, s.st_mtime_ns) for t, s in stats.items()]
        return hashlib.sha256(json.dumps([self.name, self.pngs, tables]).encode()).hexdigest()[:16]

    def read(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames uint8 (T, 3, H, W) and conditions float32 (T, 7)."""
        cond = [read_table(self.folder / t, columns, len(self.pngs)) for t, columns in TABLES.items()]
        size = read_size(self.pngs[0].path)
        frames = np.stack([read_png(p.path, height, width, size) for p in self.pngs])
        return frames.transpose(0, 3, 1, 2), np.concatenate(cond, 1)


# ------------------------------------------------------------------ finding


def is_bair_root(path: Path) -> bool:
    """Whether a folder has the BAIR layout."""
    return any(find_split(path, split) for split in NAMES)


def find_split(root: Path, split: str) -> Path | None:
    return next((root / n for n in NAMES[split] if any(iglob("traj_*/", root_dir=root / n))), None)


def sequences(folder: Path, root: Path, limit: int | None) -> list[Sequence]:
    """The sequences of a split in numerical order, each checked for what it must contain."""

    def numbered(parent: Path) -> list[Path]:
        return sorted((p for p in parent.iterdir() if p.is_dir() and p.name[:1] != "."), key=lambda p: _key(p.name))

    found = [s for trajectory in numbered(folder) for s in numbered(trajectory)]
    if not found:
        raise Lab4Error(f"{folder} holds no sequence: {LAYOUT}")
    return [_sequence(s, root) for s in found[:limit]]


def _sequence(folder: Path, root: Path) -> Sequence:
    pngs = list_pngs(folder, root)
    for i, png in enumerate(pngs):
        if png.number != i:
            raise Lab4Error(f"{folder} has no frame {i}.png: expected the frames 0 to {pngs[-1].number} without a gap")
    if len(pngs) <= GIVEN:
        raise Lab4Error(f"{folder} has {len(pngs)} frames: expected more than {GIVEN}")
    for table in TABLES:
        if not (folder / table).is_file():
            raise Lab4Error(f"{folder / table} does not exist: {LAYOUT}")
        inside_root(folder / table, root)
    return Sequence(folder, pngs)


def _key(name: str) -> tuple[list[int], str]:
    """Order by the numbers in a name: traj_256_to_511 after traj_0_to_255."""
    return [int(digits) for digits in re.findall(r"\d+", name)] or [-1], name


# ------------------------------------------------------------------ reading a table


def read_table(path: Path, columns: int, rows: int) -> np.ndarray:
    """A CSV without a header: `rows` rows of `columns` finite numbers, as float32 (rows, columns).

    Raises `Lab4Error` naming the file, the row (from 1) and what was expected there.
    """
    try:
        if not path.is_file() or path.stat().st_size > 10_000_000:  # reading a pipe would block for ever
            raise Lab4Error(f"{path} is no small file: expected a CSV of {rows} rows of {columns} numbers")
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise Lab4Error(f"{path} cannot be read ({e}): expected a CSV of {rows} rows of {columns} numbers") from e
    values = [_row(path, n, line, columns) for n, line in enumerate(lines, 1)]
    if len(values) != rows:
        raise Lab4Error(f"{path} has {len(values)} rows: expected {rows}, one for each frame in its folder")
    return np.array(values, np.float32)


def _row(path: Path, n: int, line: str, columns: int) -> list[float]:
    words = line.split(",")
    if len(words) != columns:
        raise Lab4Error(
            f"{path}, row {n} has {len(words)} value{'s' * (len(words) != 1)} between commas ({line.strip()[:40]!r}): "
            f"expected {columns} numbers with commas between them"
        )
    for word in words:
        try:
            value = float(word)
        except ValueError:
            value = float("nan")
        if not abs(value) < 1e30:  # catches NaN too; far beyond any real value, within float32
            raise Lab4Error(f"{path}, row {n} holds {word.strip()!r}: expected {columns} finite numbers")
    return [float(word) for word in words]
