"""Any kind of PNG as uint8 RGB, the error for a file that is not one, and pictures written as PNGs."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from lab4_core.errors import Lab4Error

MAX_PIXELS = 64_000_000  # a PNG of a few kB can unpack to gigabytes


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """The picture; whatever fails while it is open becomes a `Lab4Error`. Its size is checked in the first 24 bytes
    before anything unpacks it. Only PNG is tried, whatever the name says: some of Pillow's readers start programs."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would block for ever
            raise Lab4Error(f"{path} is no regular file: expected a PNG picture")
        with open(path, "rb") as f:
            head = f.read(24)
        if len(head) == 24 and head.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack(">II", head[16:])
            if width * height > MAX_PIXELS:
                raise Lab4Error(f"{path} has {width} x {height} pixels: expected at most {MAX_PIXELS:,} in all")
        with Image.open(path, formats=["PNG"]) as im:
            yield im
    except Lab4Error:
        raise
    except FileNotFoundError as e:
        raise Lab4Error(f"{path} was there when its folder was listed and is gone now: expected a PNG picture") from e
    except Exception as e:  # PIL raises SyntaxError, ValueError, zlib and struct errors for bytes that are not a PNG
        size = os.path.getsize(path) if os.path.exists(path) else 0
        raise Lab4Error(f"{path} ({size} bytes) cannot be decoded: expected a whole PNG picture ({e})") from e


def read_size(path: str) -> tuple[int, int]:
    """(width, height) from the header of a PNG."""
    with _opened(path) as im:
        return im.size


def read_png(path: str, height: int, width: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """A PNG as uint8 (height, width, 3), resized if its size differs.

    Palette and grey become RGB, 16 bits lose the low 8, transparent parts become white (the background of the pose
    images). Raises `Lab4Error` for a broken file, one of more than 64 million pixels, or one whose (width, height)
    is not `size`, that of the first picture in its folder.
    """
    with _opened(path) as im:
        if size and im.size != size:
            raise Lab4Error(
                f"{path} is {im.width} x {im.height}: expected {size[0]} x {size[1]}, the size of the first picture in "
                "its folder"
            )
        return np.asarray(to_rgb(im).resize((width, height), Image.Resampling.BILINEAR))


def pool() -> ThreadPoolExecutor:
    """Threads for many pictures: Pillow decodes and encodes without holding the GIL."""
    return ThreadPoolExecutor(min(16, os.cpu_count() or 1))


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 (3, H, W)."""
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(path, compress_level=3)


def to_rgb(im: Image.Image) -> Image.Image:
    if im.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(im).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in im.getbands() or "transparency" in im.info:
        im = im.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", im.size, "white"), im).convert("RGB")
    return im.convert("RGB")
