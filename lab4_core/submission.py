"""`submission.csv`, the file for the lab's Kaggle task: one row per frame, one column per byte.

Columns `id`, `0` … `C*H*W - 1`; a row is a frame flattened in C, H, W order, rint(255 x) clipped to 0..255; the clips
follow one another, 630 rows each including the given frame 0, and `id` counts all rows from 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lab4_core.errors import Lab4Error
from lab4_core.media import to_uint8
from lab4_core.paths import replacing

FRAMES = 630
SCORED = slice(1, 601)  # Kaggle scores frames 1 to 600 of each clip
_WORDS = [str(value) for value in range(256)]
_VALUES = {word: value for value, word in enumerate(_WORDS)}


def write_submission(path: Any, clips: Iterable[Any]) -> Path:
    """Write the predictions of all test clips, in their order: each (T, C, H, W) as in `media.to_uint8`, frame 0 first.

    The clips may come from a generator: one is held at a time. Raises `Lab4Error` when there is none or their
    frames differ in size. Kaggle wants 630 frames of (3, 32, 64) per clip; other lengths and sizes are written too,
    and grey frames as three equal channels.
    """
    size, ids = None, itertools.count()
    with replacing(path) as temporary, open(temporary, "w", newline="\n", encoding="ascii") as file:
        for k, clip in enumerate(clips):
            rows = to_uint8(clip).transpose(0, 3, 1, 2)
            if size is None:
                size = rows.shape[1:]
                file.write(",".join(["id", *map(str, range(rows[0].size))]) + "\n")
            if rows.shape[1:] != size:
                raise Lab4Error(f"clip {k}: frames of {rows.shape[1:]}, the first clip's are {size}; expected one size")
            file.writelines(
                f"{next(ids)}," + ",".join([_WORDS[v] for v in row.ravel().tolist()]) + "\n" for row in rows
            )
        if size is None:
            raise Lab4Error(f"{path}: no clip to write; expected at least one")
    return Path(path)


def read_submission(path: Any, n_frames: int = FRAMES, shape: tuple[int, int, int] = (3, 32, 64)) -> list[np.ndarray]:
    """The clips of a `submission.csv`: uint8 (n_frames, C, H, W) each.

    Raises `Lab4Error` with row and column for a missing or different column, an id that is not the next one, a value
    that is not a whole number in 0..255, a row of another length, and rows that do not fill whole clips.
    """
    size = int(np.prod(shape))
    rows = []
    try:
        with open(path, encoding="ascii") as file:
            check_header(path, file.readline().rstrip("\n").split(","), size)
            for n, line in enumerate(file):
                id_, *words = line.rstrip("\n").split(",")
                if id_ != str(n):
                    raise Lab4Error(f"{path}: row {n} has id {id_!r}: expected {n} (ids count from 0 without a gap)")
                rows.append(parse_row(path, n, words, size))
    except OSError as e:
        raise Lab4Error(f"cannot read {path}: {e.strerror}; expected a submission.csv") from e
    except UnicodeDecodeError as e:
        raise Lab4Error(f"{path}: not plain text at byte {e.start}; expected a submission.csv") from e
    if not rows or len(rows) % n_frames:
        raise Lab4Error(f"{path}: {len(rows)} rows: expected a multiple of {n_frames}, the frames of a clip")
    return list(np.stack(rows).reshape(-1, n_frames, *shape))


def check_header(path: Any, names: list[str], size: int) -> None:
    expected = ["id", *map(str, range(size))]
    both = itertools.zip_longest(map(repr, names), map(repr, expected), fillvalue="nothing")
    for i, (found, wanted) in enumerate(both):
        if found != wanted:
            raise Lab4Error(
                f"{path}: column {i} of {len(names)} is {found}: expected {wanted} (columns id, 0 … {size - 1})"
            )


def parse_row(path: Any, n: int, words: list[str], size: int) -> np.ndarray:
    """(size,) uint8 from the words of row `n`."""
    if len(words) != size:
        raise Lab4Error(f"{path}: row {n} has {len(words)} values: expected {size}")
    try:
        return np.array([_VALUES[word] for word in words], np.uint8)
    except KeyError as e:
        raise Lab4Error(
            f"{path}: row {n}, column {words.index(e.args[0])} is {e.args[0]!r}: expected a whole number from 0 to 255"
        ) from e


def kaggle_score(clips: Iterable[Any], truth: Iterable[Any]) -> dict[str, Any]:
    """Kaggle's metric: PSNR of every frame 1..600 at range 255, then the mean of the dB values.

    clips, truth: equally many clips of equal shapes, as in `media.to_uint8`; a clip may stop before frame 600.
    Returns {"clips": dB of each clip, "psnr": their mean, "public": that of the first three, "private": that of the
    last two, "frames": frames scored in the shortest clip}; public and private are None unless there are five clips. A
    frame without any error counts as infinite.
    """
    clips, truth = [to_uint8(c) for c in clips], [to_uint8(c) for c in truth]
    if not clips or [c.shape for c in clips] != [t.shape for t in truth]:
        raise Lab4Error(
            f"clips of shapes {[c.shape for c in clips]} against a truth of {[t.shape for t in truth]}: "
            "expected the same clips in the same sizes"
        )
    if min(len(c) for c in clips) < 2:
        raise Lab4Error("a clip of 1 frame: expected 2 or more, frame 0 is given and not scored")
    means = [float(psnr_255(c[SCORED], t[SCORED]).mean()) for c, t in zip(clips, truth)]
    split = len(means) == 5
    return {
        "clips": means,
        "psnr": float(np.mean(means)),
        "public": float(np.mean(means[:3])) if split else None,
        "private": float(np.mean(means[3:])) if split else None,
        "frames": min(len(c[SCORED]) for c in clips),
    }


def psnr_255(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(T,) dB between two uint8 clips (T, H, W, 3)."""
    mse = np.square(a.astype(np.float32) - b).mean(axis=(1, 2, 3), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / mse)
