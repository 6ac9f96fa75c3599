"""One PNG into uint8 RGB, whatever kind of PNG it is; and the error when it is none."""

from __future__ import annotations

import os
import warnings

import numpy as np
from PIL import Image

from lab4_core.errors import Lab4Error

MAX_PIXELS = 64_000_000  # a PNG of a few kB can unpack to gigabytes


def _opened(path: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is the stricter one
        im = Image.open(path)
    if im.width * im.height > MAX_PIXELS:
        raise Lab4Error(f"{path} has {im.width} x {im.height} pixels: expected at most {MAX_PIXELS:,} in all")
    return im


def _readable(path: str, read):
    try:
        return read()
    except Lab4Error:
        raise
    except Exception as e:  # PIL raises SyntaxError, ValueError, zlib and struct errors for bytes that are no PNG
        size = os.path.getsize(path) if os.path.exists(path) else 0
        raise Lab4Error(f"{path} ({size} bytes) cannot be decoded: expected a whole PNG picture ({e})") from e


def read_size(path: str) -> tuple[int, int]:
    """(width, height) from the head of a PNG."""

    def read():
        with _opened(path) as im:
            return im.size

    return _readable(path, read)


def read_png(path: str, height: int, width: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """A PNG as uint8 (height, width, 3), resized when it is larger or smaller.

    Palette and grey become RGB, 16 bits lose the low 8, what is transparent shows white (the ground of the pose
    images). Raises `Lab4Error` for a broken file, one of more than 64 million pixels, or one whose (width, height)
    is not `size`, that of its neighbours.
    """

    def read():
        with _opened(path) as im:
            if size and im.size != size:
                raise Lab4Error(
                    f"{path} is {im.width} x {im.height}: expected {size[0]} x {size[1]}, the size of the first "
                    "picture in its folder"
                )
            return np.asarray(to_rgb(im).resize((width, height), Image.Resampling.BILINEAR))

    return _readable(path, read)


def to_rgb(im: Image.Image) -> Image.Image:
    if im.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(im).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in im.getbands() or "transparency" in im.info:
        im = im.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", im.size, "white"), im).convert("RGB")
    return im.convert("RGB")
