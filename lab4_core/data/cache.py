"""One file for each loaded dataset, so that PNGs are decoded (or a dancer rendered) once.

An uncompressed .npz: plain arrays, no pickles, a CRC for each. The cache is an aid, never a need:
a folder that cannot be written or a damaged file costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lab4_core import paths
from lab4_core.data.store import Clips, TestClip, VideoData
from lab4_core.errors import Lab4Error

Arrays = dict[str, np.ndarray]


def fetch(name: str, identity: str, manifest: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of `make()`, from the cache when its file was written under the same manifest.

    identity: what the dataset is (its place and parameters); it names the file.
    manifest: what the arrays depend on and may change (names, sizes and times of files); another one rebuilds.
    """
    path = paths.CACHE / f"{name}-{_hash(identity)}.npz"
    stamp = np.frombuffer(bytes.fromhex(hashlib.sha256(manifest.encode()).hexdigest()), np.uint8)
    arrays = _read(path, stamp)
    if arrays is None:
        arrays = make()
        try:
            with paths.replacing(path) as temporary:
                np.savez(temporary, manifest=stamp, **arrays)
        except Lab4Error as e:
            print(f"lab4: not cached: {e}", file=sys.stderr)
    return arrays


def _read(path: Path, stamp: np.ndarray) -> Arrays | None:
    """The arrays of a cache file, or None where there is none, it is of older content, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as f:
            if not np.array_equal(f["manifest"], stamp):
                return None
            return {key: f[key] for key in f.files if key != "manifest"}
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error):
        return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(arrays: Arrays) -> str:
    """16 hex digits of the content: names, types, shapes and bytes of all arrays."""
    h = hashlib.sha256()
    for key in sorted(arrays):
        a = np.ascontiguousarray(arrays[key])
        h.update(f"{key} {a.dtype.str} {a.shape};".encode())
        h.update(a.data)
    return h.hexdigest()[:16]


def to_arrays(data: VideoData) -> Arrays:
    """A dataset as named arrays: `train/frames`, `train/cond`, `train/starts`, …, `test/<name>/first|cond`."""
    arrays = {}
    for split in ("train", "val"):
        clips: Clips = getattr(data, split)
        arrays |= {f"{split}/frames": clips.frames.numpy(), f"{split}/cond": clips.cond.numpy()}
        arrays[f"{split}/starts"] = np.array(clips.starts, np.int64)
    for clip in data.test:
        arrays |= {f"test/{clip.name}/first": clip.first.numpy(), f"test/{clip.name}/cond": clip.cond.numpy()}
    return arrays


def from_arrays(arrays: Arrays, name: str, digest: str) -> VideoData:
    """The inverse of `to_arrays`; arrays of other names are left out. Test clips keep their order."""
    tensor = {key: torch.from_numpy(a) for key, a in arrays.items()}
    splits = [
        Clips(tensor[f"{s}/frames"], tensor[f"{s}/cond"], tuple(arrays[f"{s}/starts"].tolist()))
        for s in ("train", "val")
    ]
    names = [key.split("/")[1] for key in arrays if key.startswith("test/") and key.endswith("/first")]
    test = tuple(TestClip(n, tensor[f"test/{n}/first"], tensor[f"test/{n}/cond"]) for n in names)
    return VideoData(name, *splits, test, digest)


def load(name: str, identity: str, manifest: str, make: Callable[[], Arrays]) -> VideoData:
    """`fetch`, with the digest computed once and stored beside the arrays."""
    arrays = fetch(name, identity, manifest, lambda: with_digest(make()))
    return from_arrays(arrays, name, arrays["digest"].tobytes().hex())


def with_digest(arrays: Arrays) -> Arrays:
    content = {key: a for key, a in arrays.items() if not key.startswith("truth/")}
    return arrays | {"digest": np.frombuffer(bytes.fromhex(digest(content)), np.uint8)}
