"""The original release of BAIR robot pushing (TFRecords), converted once into the lab's folders.

One record is one sequence; for frame t it holds `t/image_aux1/encoded` (64 x 64 RGB, raw bytes), `t/action` (4) and
`t/endeffector_pos` (3). `image_main`, a second camera, is left out, as in the lab and in the papers.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from lab4_core.data.bair_write import write_sequence
from lab4_core.data.lab4_write import check_new, new_folder
from lab4_core.data.tfrecord import read_example, read_records
from lab4_core.errors import Lab4Error
from lab4_core.progress import Progress

SPLITS = {"train": "train", "test": "test", "val": "validate", "validation": "validate", "validate": "validate"}
SIDE = 64  # pixels of the raw frames


def convert_tfrecords(source: str | os.PathLike, root: str | os.PathLike) -> Path:
    """Write every sequence of the TFRecords under `source` (in folders train, test, …) as root/<split>/<file>/<number>.

    root is a new folder, which appears only when complete. Raises `Lab4Error` naming the file and the record that
    is cut off, lacks these features, or has them in other sizes.
    """
    root, source = check_new(root), Path(source).expanduser()
    files = find_tfrecords(source)
    progress = Progress("converting TFRecords")
    progress.line(f"{len(files)} files")
    with new_folder(root) as building:
        for n, (split, path) in enumerate(files):
            name = path.name.split(".")[0]
            folder = building / split / (name if name.startswith("traj_") else f"traj_{name}")
            for k, record in enumerate(read_records(path)):
                write_sequence(folder / str(k), *read_sequence(record, f"{path}, record {k}"))
            progress.update((n + 1) / len(files), path.name)
    progress.close()
    return root


def find_tfrecords(source: Path) -> list[tuple[str, Path]]:
    """(split, file) of all TFRecords under a folder, ordered by the numbers in their names."""
    if not source.is_dir():
        raise Lab4Error(f"{source} is not a folder: expected the release, with train/*.tfrecords and test/*.tfrecords")
    found = []
    names: dict[tuple[str, str], Path] = {}
    for path in sorted(source.rglob("*.tfrecord*"), key=lambda p: ([int(d) for d in re.findall(r"\d+", p.name)], p)):
        split = next((SPLITS[part] for part in reversed(path.relative_to(source).parts[:-1]) if part in SPLITS), None)
        if split is None:
            raise Lab4Error(f"{path} lies in no folder train or test: expected the release's layout")
        if (other := names.setdefault((split, path.name.split(".")[0]), path)) != path:
            raise Lab4Error(f"{other} and {path} would be one folder of {split}: expected different names")
        found.append((split, path))
    if not found:
        raise Lab4Error(f"{source} holds no *.tfrecords: expected the release, with train/*.tfrecords in it")
    return found


def read_sequence(record: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 (T, 3, H, W) and conditions float32 (T, 7) of one record."""
    try:
        features = read_example(record)
    except ValueError as e:  # UnicodeDecodeError included
        raise Lab4Error(f"{where}: not a tf.train.Example ({e})") from e
    frames, cond = [], []
    for t in itertools.count():
        image = features.get(f"{t}/image_aux1/encoded")
        if image is None and t:
            break
        numbers = [features.get(f"{t}/{name}") for name in ("action", "endeffector_pos")]
        if not isinstance(image, list) or not image or not all(isinstance(v, np.ndarray) for v in numbers):
            raise Lab4Error(
                f"{where}: no {t}/image_aux1/encoded, {t}/action or {t}/endeffector_pos; it holds "
                f"{', '.join(sorted(features)[:6]) or 'nothing'}"
            )
        if [len(v) for v in numbers] != [4, 3] or not np.isfinite(np.concatenate(numbers)).all():
            raise Lab4Error(f"{where}: action and endeffector_pos of frame {t} are {numbers}; expected 4 and 3 numbers")
        frames.append(_picture(image[0], f"{where}, frame {t}"))
        cond.append(np.concatenate(numbers))
    if len({f.shape for f in frames}) > 1:
        raise Lab4Error(f"{where}: frames of {sorted({f.shape for f in frames})}; expected one size")
    return np.stack(frames).transpose(0, 3, 1, 2), np.stack(cond).astype(np.float32)


def _picture(data: bytes, where: str) -> np.ndarray:
    if len(data) == SIDE * SIDE * 3:  # the release says encoded but stores them raw
        return np.frombuffer(data, np.uint8).reshape(SIDE, SIDE, 3)
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except Exception as e:  # PIL raises many kinds of error for bytes that are not a picture
        raise Lab4Error(f"{where}: {len(data)} bytes; expected {SIDE} x {SIDE} x 3, or a JPEG or PNG") from e
