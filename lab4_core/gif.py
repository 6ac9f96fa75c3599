"""A GIF of a clip with more colours than a GIF can hold: one palette for all frames, no dithering, no flicker.

A separate palette for every frame, or dithering, makes a still studio background shimmer and the file large.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write(path: Path, frames: np.ndarray, milliseconds: int) -> None:
    """frames (T, H, W, 3) uint8, each shown for `milliseconds`, in an endless loop. Frames in which nothing changes
    become one longer frame in the file."""
    palette = palette_of(frames)
    images = [Image.fromarray(frame) for frame in indexed(frames, palette)]
    for image in images:
        image.putpalette(palette.tobytes())
    # the 256th colour stays free: Pillow makes it transparent and uses it where a pixel has not changed
    images[0].save(
        path, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0, disposal=1, optimize=True
    )


def packed(frame: np.ndarray) -> np.ndarray:
    """(…, 3) uint8 -> (…) int32, one number per colour: much faster to look up and sort than rows of three."""
    frame = frame.astype(np.int32)
    return frame[..., 0] << 16 | frame[..., 1] << 8 | frame[..., 2]


def unpacked(codes: np.ndarray) -> np.ndarray:
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)


def palette_of(frames: np.ndarray, colours: int = 255) -> np.ndarray:
    """(K, 3) uint8: one palette for the whole clip, the commonest colour first, the others found by median cut and
    k-means over up to 24 of its frames."""
    codes, counts = np.unique(packed(frames[:: -(-len(frames) // 24)]), return_counts=True)
    # the commonest colour, the page, is kept exactly; the others count once each, or flat areas would take every entry
    page = unpacked(codes[counts.argmax()])[None]
    image = Image.fromarray(unpacked(codes)[None])
    image = image.quantize(colours - 1, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    return np.concatenate([page, np.array(image.getpalette(), np.uint8).reshape(-1, 3)])


def nearest_colour(codes: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """For each packed colour, the index of the nearest one in the palette (squared RGB distance)."""
    target = palette.astype(np.float32)
    parts = np.array_split(unpacked(codes).astype(np.float32), len(codes) // 4096 + 1)
    # |a - b|^2 without |a|^2, which is the same for every entry of the palette
    return np.concatenate([((target**2).sum(1) - 2 * part @ target.T).argmin(1) for part in parts]).astype(np.uint8)


def indexed(frames: np.ndarray, palette: np.ndarray, tolerance: int = 4) -> np.ndarray:
    """(T, H, W) indices into `palette`: the nearest colour, without dithering.

    A pixel keeps the colour it shows while the true one lies within `tolerance` levels of it in R, G and B, so
    invisible noise neither flickers nor costs bytes. Only colour 0, the page, is always restored: on plain white
    even a ghost of four levels shows.
    """
    seen = np.zeros(1 << 24, bool)
    for frame in frames:
        seen[packed(frame)] = True
    codes = np.flatnonzero(seen)
    table = np.zeros(1 << 24, np.uint8)
    table[codes] = nearest_colour(codes, palette)
    out = np.stack([table[packed(frame)] for frame in frames])
    for t in range(1, len(out)):
        near = np.abs(palette.astype(np.int16)[out[t - 1]] - frames[t]) <= tolerance
        np.copyto(out[t], out[t - 1], where=near[..., 0] & near[..., 1] & near[..., 2] & (out[t] != 0))
    return out
