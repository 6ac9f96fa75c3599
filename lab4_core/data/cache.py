"""One file per loaded dataset, so that PNGs are decoded (or a dancer is rendered) only once.

An uncompressed .npz: plain arrays, no pickles, a CRC for each. The cache is never required: a folder that cannot be
written or a damaged file costs time, nothing else.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lab4_core import paths
from lab4_core.data.store import Clips, TestClip, VideoData
from lab4_core.errors import Lab4Error

Arrays = dict[str, np.ndarray]
SPLITS = ("train", "val", "test")


def fetch(name: str, identity: str, manifest: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of `make()`, from the cache if its file was written for the same manifest.

    identity: what the dataset is (its location and parameters); it names the file.
    manifest: what the arrays depend on and may change (names, sizes and times of files); another one rebuilds them.
    The array `digest` is added, a hash of the content, so that a cached dataset need not be hashed again.
    """
    path = paths.CACHE / f"{name}-{hashlib.sha256(_bytes(identity)).hexdigest()[:16]}.npz"
    stamp = np.frombuffer(hashlib.sha256(_bytes(manifest)).digest(), np.uint8)
    arrays = _read(path, stamp)
    if arrays is None:
        arrays = make()
        arrays["digest"] = np.frombuffer(bytes.fromhex(digest(arrays)), np.uint8)
        paths.remove_leftovers(paths.CACHE, paths.STALE)  # what a killed process left can be as large as a dataset
        try:
            with paths.replacing(path) as temporary:
                np.savez(temporary, manifest=stamp, **arrays)
        except (Lab4Error, OSError, ValueError) as e:  # a name that is not Unicode cannot be one in a zip file
            print(f"lab4: not cached: {e}", file=sys.stderr)
    return arrays


def _read(path: Path, stamp: np.ndarray) -> Arrays | None:
    """The arrays of a cache file, or None if it is missing, out of date or damaged."""
    try:
        with np.load(path, allow_pickle=False) as f:
            if not np.array_equal(f["manifest"], stamp):
                return None
            arrays = {key: f[key] for key in f.files if key != "manifest"}
            return arrays if "digest" in arrays else None
    except Exception:  # a damaged file can fail in any way; it is made again
        return None


def _bytes(text: str) -> bytes:
    """UTF-8, even of file names on disk that are not valid Unicode."""
    return text.encode("utf-8", "surrogateescape")


def digest(arrays: Arrays) -> str:
    """A hash of a dataset's content, 16 hex digits: names, types, shapes and bytes of the arrays of its splits."""
    h = hashlib.sha256()
    for key in sorted(k for k in arrays if k.split("/")[0] in SPLITS):
        a = np.ascontiguousarray(arrays[key])
        h.update(_bytes(f"{key} {a.dtype.str} {a.shape};"))
        h.update(a.data)
    return h.hexdigest()[:16]


def load(name: str, identity: str, manifest: str, make: Callable[[], Arrays]) -> VideoData:
    """The dataset of the arrays `train/frames`, `train/cond`, `train/starts`, the same for `val`, and for each test
    clip, in order, `test/<name>/first`, `test/<name>/cond` and maybe `test/<name>/truth`. See `fetch`, which may know
    further arrays."""
    arrays = fetch(name, identity, manifest, make)
    tensor = {key: torch.from_numpy(a) for key, a in arrays.items() if key.split("/")[0] in SPLITS}
    splits = [
        Clips(tensor[f"{s}/frames"], tensor[f"{s}/cond"], tuple(arrays[f"{s}/starts"].tolist()))
        for s in ("train", "val")
    ]
    names = [key.split("/")[1] for key in arrays if key.startswith("test/") and key.endswith("/first")]
    test = tuple(TestClip(n, *(tensor.get(f"test/{n}/{part}") for part in ("first", "cond", "truth"))) for n in names)
    return VideoData(name, *splits, test, arrays["digest"].tobytes().hex())
