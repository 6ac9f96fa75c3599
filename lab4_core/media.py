"""Moving and still pictures of clips: panels side by side, GIF, MP4, film strips, and `Video`, which displays itself.

Everything here is numpy. After `to_uint8` a clip is (T, H, W, 3) uint8, with any H and W.
"""

from __future__ import annotations

import base64
import html
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lab4_core import gif
from lab4_core.errors import Lab4Error
from lab4_core.paths import replacing

INK, PAPER, LINE = (40, 40, 40), (255, 255, 255), (190, 190, 190)
GUTTER, TEXT_HEIGHT, FONT_SIZE = 6, 18, 13  # pixels of the finished picture
CONTROLS = 48  # pixels of white under an embedded MP4, which a browser covers with its controls
SHOWN_FRAMES = 160  # a longer clip is thinned to about this many frames when it is embedded in a page


def to_uint8(images: Any) -> np.ndarray:
    """(T, C, H, W) or (T, H, W, C), C = 3 or 1, numpy or torch, uint8 or float in [0, 1] -> (T, H, W, 3) uint8.

    Floats are clipped before they become bytes: a prediction of 1.01 is white, not the black it would wrap to.
    Raises `Lab4Error` for another shape or type, and for NaN, naming the frame.
    """
    channels_first = hasattr(images, "detach")  # torch; dtypes that numpy lacks (bfloat16) go through float32
    if channels_first:
        images = images.detach().cpu()
        images = (images.float() if images.is_floating_point() else images).numpy()
    images = np.asarray(images)
    if images.ndim != 4 or not {images.shape[1], images.shape[3]} & {1, 3} or 0 in images.shape:
        raise Lab4Error(f"images of shape {images.shape}: expected (T, C, H, W) or (T, H, W, C) with C = 3, or 1: grey")
    n = 3 if 3 in (images.shape[1], images.shape[3]) else 1
    if images.shape[1] == n and (channels_first or images.shape[3] != n):
        images = images.transpose(0, 2, 3, 1)
    images = images if n == 3 else images.repeat(3, axis=3)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise Lab4Error(f"images of type {images.dtype}: expected uint8, or floats in [0, 1]")
    if (broken := np.isnan(images).any(axis=(1, 2, 3))).any():
        frame = int(broken.argmax())
        raise Lab4Error(f"images: frame {frame} holds NaN: expected numbers in [0, 1] (did training diverge?)")
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8, order="C")


def error_map(pred: Any, truth: Any, limit: float = 0.25) -> np.ndarray:
    """The absolute error, mean over R, G and B, in the colours of magma: black is 0, pale yellow `limit` or more.

    `limit` is on the [0, 1] scale of the pixels (0.25 is 64 of 255 levels). pred and truth as in `to_uint8`;
    returns (T, H, W, 3) uint8. magma is perceptually uniform: twice as bright is about twice the error.
    """
    from matplotlib import colormaps

    pred, truth = same_size({"prediction": pred, "ground truth": truth}).values()
    error = np.abs(pred.astype(np.int16) - truth).mean(axis=3) / 255
    colours = (colormaps["magma"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return colours[np.rint(np.clip(error / limit, 0, 1) * 255).astype(np.uint8)]


def same_size(panels: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every panel through `to_uint8`; raises `Lab4Error` if there is none or two differ in length or size."""
    clips = {name: to_uint8(clip) for name, clip in panels.items()}
    if not clips:
        raise Lab4Error("no panel: expected at least one clip to show")
    if len({clip.shape for clip in clips.values()}) > 1:
        sizes = ", ".join(f"{name} {clip.shape}" for name, clip in clips.items())
        raise Lab4Error(f"panels differ in size: {sizes}; expected the same frames, height and width")
    return clips


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """(…, H, W, 3) enlarged by nearest neighbour, so that a pixel of the clip stays one visible square."""
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def write(picture: np.ndarray, x: int, y: int, text: str, anchor: str = "mm") -> None:
    """Draw text into an (H, W, 3) uint8 picture, in place; `anchor` is Pillow's (mm: centred on x, y)."""
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((x, y), text, fill=INK, font=ImageFont.load_default(FONT_SIZE), anchor=anchor)
    picture[:] = np.asarray(image)


def frame_notes(n_frames: int, psnr: Sequence[float] | None = None, n_past: int = 1) -> list[str]:
    """The line under each frame: its number and, when known, its PSNR. psnr: dB of the frames from `n_past` on."""
    notes = [f"frame {t} of {n_frames - 1}" for t in range(n_frames)]
    if psnr is None:
        return notes
    if len(psnr) != n_frames - n_past:
        raise Lab4Error(
            f"{len(psnr)} PSNR values for {n_frames} frames: expected {n_frames - n_past} (the given have none)"
        )
    return [n + ("   given" if t < n_past else f"   {psnr[t - n_past]:.1f} dB") for t, n in enumerate(notes)]


def side_by_side(panels: Mapping[str, Any], scale: int = 4, notes: Sequence[str] | None = None) -> np.ndarray:
    """{"prediction": clip, "ground truth": clip, …} -> one captioned clip (T, H', W', 3) uint8.

    Each panel is enlarged `scale` times under its name; `notes` is a line per frame below them (see `frame_notes`).
    Raises `Lab4Error` when the panels differ in size or there is not one note per frame.
    """
    clips = same_size(panels)
    n, h, w, _ = next(iter(clips.values())).shape
    if notes is not None and len(notes) != n:
        raise Lab4Error(f"{len(notes)} notes for {n} frames: expected one a frame")
    h, w, pitch = h * scale, w * scale, w * scale + GUTTER
    page = np.full(
        (TEXT_HEIGHT + h + 1 + (TEXT_HEIGHT if notes else GUTTER), pitch * len(clips) + GUTTER, 3), PAPER, np.uint8
    )
    for i, name in enumerate(clips):
        x = GUTTER + i * pitch
        write(page, x + w // 2, TEXT_HEIGHT // 2, name)
        page[TEXT_HEIGHT - 1 : TEXT_HEIGHT + h + 1, x - 1 : x + w + 1] = LINE  # a border: white poses need an edge
    frames = np.repeat(page[None], n, axis=0)
    for i, clip in enumerate(clips.values()):
        x = GUTTER + i * pitch
        frames[:, TEXT_HEIGHT : TEXT_HEIGHT + h, x : x + w] = enlarge(clip, scale)
    for frame, note in zip(frames, notes or ()):
        strip = frame[-TEXT_HEIGHT + 1 :]
        write(strip, GUTTER, TEXT_HEIGHT // 2, note, anchor="lm")
    return frames


def chosen_frames(n_frames: int, n: int = 8, every: int | None = None) -> list[int]:
    """The frames a film strip shows: every `every`-th, or `n` spread evenly from the first to the last."""
    if every is not None:
        return list(range(0, n_frames, every))
    return sorted({int(t) for t in np.linspace(0, n_frames - 1, n).round()})


def film_strip(rows: Mapping[str, Any], n: int = 8, every: int | None = None, scale: int = 2, frames: Any = None):
    """Still frames of clips, (H', W', 3) uint8: a labelled row for each clip, a numbered column for each of `frames`,
    by default those of `chosen_frames`."""
    clips = same_size(rows)
    length, h, w, _ = next(iter(clips.values())).shape
    columns = chosen_frames(length, n, every) if frames is None else list(frames)
    h, w, gap = h * scale, w * scale, 2
    font = ImageFont.load_default(FONT_SIZE)
    left = max(int(font.getlength(name)) for name in clips) + 2 * GUTTER
    shape = (TEXT_HEIGHT + len(clips) * (h + gap), left + len(columns) * (w + gap), 3)
    page = np.full(shape, PAPER, np.uint8)
    for j, t in enumerate(columns):
        x = left + j * (w + gap)
        write(page, x + w // 2, TEXT_HEIGHT // 2, str(t) if j else f"frame {t}")
        for i, clip in enumerate(clips.values()):
            y = TEXT_HEIGHT + i * (h + gap)
            page[y : y + h, x : x + w] = enlarge(clip[t], scale)
            page[[y, y + h - 1], x : x + w] = page[y : y + h, [x, x + w - 1]] = LINE
    for i, name in enumerate(clips):
        write(page, left - GUTTER, TEXT_HEIGHT + i * (h + gap) + h // 2, name, anchor="rm")
    return page


def save_gif(path: Any, frames: Any, fps: float = 20) -> Path:
    """Write a GIF that loops for ever (`gif.py` keeps it small and free of flicker).

    frames as in `to_uint8`. A GIF counts in 1/100 s: 20 fps is exact, 30 fps plays at 33. Frames in which nothing
    changes become one longer frame in the file.
    """
    frames = to_uint8(frames)
    if not 0 < fps <= 50:
        raise Lab4Error(f"fps = {fps}: expected more than 0 and at most 50, the fastest that browsers play a GIF")
    with replacing(path) as temporary:
        gif.write(temporary, frames, milliseconds=round(100 / fps) * 10)
    return Path(path)


def save_mp4(path: Any, frames: Any, fps: float = 20) -> Path:
    """Write H.264 in yuv420p, which every browser plays; an odd height or width is padded by repeating its edge."""
    import imageio.v3 as iio

    frames = to_uint8(frames)
    if not 0 < fps <= 120:
        raise Lab4Error(f"fps = {fps}: expected more than 0 and at most 120")
    odd = [(0, size % 2) for size in frames.shape[1:3]]
    frames = np.pad(frames, [(0, 0), *odd, (0, 0)], mode="edge")
    with replacing(path) as temporary:
        iio.imwrite(
            temporary, frames, plugin="FFMPEG", extension=".mp4", fps=fps, codec="libx264", pixelformat="yuv420p",
            macro_block_size=1, quality=None,
            output_params=["-crf", "20", "-tune", "animation", "-movflags", "+faststart"],
        )  # fmt: skip
    return Path(path)


def png_bytes(picture: np.ndarray, colours: int = 0) -> bytes:
    """An (H, W, 3) uint8 picture as a PNG file; reduced to at most `colours`, a few grey levels off, if it is not 0."""
    out, drawn = io.BytesIO(), Image.fromarray(picture)
    (drawn.quantize(colours, Image.Quantize.MAXCOVERAGE) if colours else drawn).save(out, "PNG", optimize=True)
    return out.getvalue()


def figure_html(content: bytes, mime: str, alt: str, caption: str) -> str:
    """One HTML figure with its picture embedded: nothing to load, alt text and caption escaped."""
    src = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    alt, fit = html.escape(alt, quote=True), 'style="max-width:100%"'
    if mime.startswith("video/"):
        media = f'<video autoplay loop muted playsinline controls aria-label="{alt}" {fit} src="{src}">{alt}</video>'
    else:
        media = f'<img alt="{alt}" {fit} src="{src}">'
    under = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure style="margin:0.5em 0">{media}{under}</figure>'


@dataclass(frozen=True, eq=False)
class Video:
    """A clip in one or more panels that displays itself in a notebook and in what nbconvert makes of it.

    panels: name -> clip, the prediction first; kept as (T, H, W, 3) uint8. psnr: dB of the frames from n_past on, to be
    written under them; of: of what (`metrics.psnr_per_frame`). embed: its format in a page. every: a page shows every
    `every`-th frame; by default it thins a clip to some 160 (the caption says so). `save` always writes all frames.
    """

    panels: Mapping[str, Any]
    _: KW_ONLY
    title: str = ""
    alt: str = ""
    fps: float = 20.0
    psnr: Sequence[float] | None = field(default=None, repr=False)
    of: str = "frame"
    n_past: int = 1
    scale: int = 4
    embed: Literal["gif", "mp4"] = "gif"
    every: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "panels", same_size(self.panels))
        if self.embed not in ("gif", "mp4"):
            raise Lab4Error(f"embed = {self.embed!r}: expected 'gif' or 'mp4'")
        if self.every is not None and self.every < 1:
            raise Lab4Error(f"every = {self.every}: expected 1 or more frames")
        frame_notes(len(self), self.psnr, self.n_past)

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:  # constant, so that a notebook's stored output can be compared
        return f"Video({', '.join(self.panels)})"

    @property
    def frames(self) -> np.ndarray:
        """The first panel, the prediction: (T, H, W, 3) uint8, at the model's own size."""
        return next(iter(self.panels.values()))

    def composed(self, every: int = 1) -> np.ndarray:
        """Every `every`-th frame of all panels side by side with captions: (T', H', W', 3) uint8."""
        notes = frame_notes(len(self), self.psnr, self.n_past)[::every]
        return side_by_side({name: clip[::every] for name, clip in self.panels.items()}, self.scale, notes)

    def strip(self, n: int = 8) -> np.ndarray:
        """The film strip of `n` frames, (H', W', 3) uint8."""
        return film_strip(self.panels, n)

    def save(self, path: Any) -> Path:
        """Write all frames as .gif or .mp4, or the film strip as .png; any other suffix is a `Lab4Error`."""
        suffix = Path(path).suffix.lower()
        if suffix == ".gif":
            return save_gif(path, self.composed(), self.fps)
        if suffix == ".mp4":
            return save_mp4(path, self.composed(), self.fps)
        if suffix == ".png":
            with replacing(path) as temporary:
                temporary.write_bytes(png_bytes(self.strip()))
            return Path(path)
        raise Lab4Error(f"{path}: expected a name that ends in .gif, .mp4 or .png")

    def to_html(self) -> str:
        """The clip as one HTML figure, thinned to every `every`-th frame."""
        every = self.every or -(-len(self) // SHOWN_FRAMES)
        fps = max(self.fps / every, min(self.fps, 10.0))  # below 10 fps motion falls apart: play faster instead
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"clip.{self.embed}"
            pictures = self.composed(every)
            if self.embed == "mp4":
                pictures = np.pad(pictures, [(0, 0), (0, CONTROLS), (0, 0), (0, 0)], constant_values=255)
            (save_gif if self.embed == "gif" else save_mp4)(file, pictures, fps)
            content = file.read_bytes()
        caption = (f"{self.title}. " if self.title else "") + f"{len(self)} frames"
        if every > 1:
            speed = fps * every / self.fps
            caption += f", 1 in {every} shown" + (f", {speed:.2g} times as fast" if speed != 1 else "")
        name, panels = f"{self.title}: " if self.title else "", ", ".join(self.panels)
        alt = self.alt or f"{name}moving picture of {len(self)} frames, {panels} side by side"
        return figure_html(content, "image/gif" if self.embed == "gif" else "video/mp4", alt, caption + ".")

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        # text/html first: nbconvert drops a bare image/gif; the strip is for Markdown and PDF, a quarter of the bytes
        return {"text/html": self.to_html(), "image/png": png_bytes(self.strip(), 256), "text/plain": repr(self)}
