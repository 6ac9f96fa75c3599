"""A clip to play, pause and scrub: its panels at one frame, and below them a curve with a cursor at that frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cache, cached_property, partial
from typing import Any

import ipywidgets as w
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lab4_core.errors import Lab4Error
from lab4_core.media import (
    GUTTER,
    Video,
    chosen_frames,
    error_map,
    film_strip,
    png_bytes,
    same_size,
    side_by_side,
    to_uint8,
)
from lab4_core.metrics import psnr_per_frame
from lab4_core.plots.style import COLOURS, GREY, plain, styled
from lab4_core.widgets.live import Live, stacked, words

SHORTEST = 80  # milliseconds between two pictures; higher speeds skip frames, so that the kernel keeps up
SPEEDS = {"¼×": 0.25, "½×": 0.5, "1×": 1.0, "2×": 2.0, "4×": 4.0}
CURSOR = (213, 94, 0)
WIDTH, CURVE_HEIGHT = 840, 170  # pixels: largest width of all panels together, height of the curve
DPI = 80  # 64 + 16: a whole number divided by it and multiplied by it again is itself, so that no pixel is lost
STILLS = 6  # frames in the static twin


@dataclass(frozen=True, eq=False, repr=False)
class Player(Live):
    """A clip in panels, with curves over its frames.

    panels: name -> clip of T frames (`media.to_uint8`). curves: name -> (T,), NaN where there is no value; the first
    is drawn in colour and followed by the cursor, the others are grey. ylabel: what the curves are, with their unit.
    unit: what is written after the first curve's value. fps: frames per second at speed 1.
    """

    panels: Mapping[str, Any]
    _: KW_ONLY
    curves: Mapping[str, Any] | None = None
    ylabel: str = ""
    unit: str = ""
    fps: float = 20.0
    alt: str = ""
    caption: str = ""

    def __post_init__(self):
        object.__setattr__(self, "panels", same_size(self.panels))
        curves = {name: np.asarray(values, float) for name, values in (self.curves or {}).items()}
        for name, values in curves.items():
            if values.shape != (len(self),):
                raise Lab4Error(f"curve {name}: of shape {values.shape}: expected ({len(self)},), a value a frame")
        object.__setattr__(self, "curves", curves)
        if not 0 < self.fps <= 120:
            raise Lab4Error(f"fps = {self.fps}: expected more than 0 and at most 120")
        names = ", ".join(self.panels)
        over = f"; below, {self.ylabel or 'a curve'} over the frames" if curves else ""
        object.__setattr__(self, "alt", self.alt or f"frames of a clip, {names} side by side{over}")

    def __len__(self) -> int:
        return len(next(iter(self.panels.values())))

    @property
    def scale(self) -> int:
        """Screen pixels per pixel of the clip, as many as fit, up to 6."""
        width = next(iter(self.panels.values())).shape[2]
        return max(1, min(6, (WIDTH // len(self.panels) - GUTTER) // width))

    def note(self, frame: int) -> str:
        """The line under the panels."""
        text = f"frame {frame} of {len(self) - 1}"
        if not self.curves:
            return text
        value = next(iter(self.curves.values()))[frame]
        return f"{text}   {value:.1f} {self.unit}" if np.isfinite(value) else f"{text}   given"

    def look(self, frame: int) -> bytes:
        """All panels at one frame with the curve and its cursor, as a PNG. Raises `Lab4Error` for a frame that
        does not exist."""
        if not 0 <= frame < len(self):
            raise Lab4Error(f"frame = {frame}: expected 0 to {len(self) - 1}")
        panels = {name: clip[frame : frame + 1] for name, clip in self.panels.items()}
        page = side_by_side(panels, self.scale, [self.note(frame)])[0]
        if self.curves:
            page = np.concatenate([page, self.curve_at([frame], page.shape[1])])
        return png_bytes(page)

    def still(self) -> bytes:
        """A film strip, and the curve with the frames of the strip marked."""
        page = film_strip(self.panels, STILLS)
        if self.curves:
            page = np.concatenate([page, self.curve_at(chosen_frames(len(self), STILLS), page.shape[1])])
        return png_bytes(page)

    def curve_at(self, frames: list[int], width: int) -> np.ndarray:
        """The curves, (CURVE_HEIGHT, width, 3) uint8, with a cursor at each of these frames."""
        picture, x, y, (top, bottom) = self._drawn(width)
        picture = picture.copy()
        for frame in frames:
            column = round(float(x[frame]))
            picture[top:bottom, column : column + 2] = CURSOR
            if np.isfinite(y[frame]):
                row = round(float(y[frame]))
                picture[max(0, row - 3) : row + 4, column - 3 : column + 5] = CURSOR
        return picture

    @cached_property
    def _drawn(self) -> Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]]:
        """The curves without a cursor, drawn once per width."""
        return cache(partial(draw_curves, self.curves, self.ylabel))

    def build(self) -> w.Widget:
        last, normal = len(self) - 1, 1000 / self.fps
        picture = w.Image(value=self.look(0), format="png")
        play = w.Play(value=0, min=0, max=last, interval=max(SHORTEST, round(normal)))
        play.layout.display = "none"  # its own buttons are icons without a name; these two are heard and read
        playing = w.ToggleButton(description="play", tooltip="play or pause", layout={"width": "6em"})
        again = w.ToggleButton(description="repeat", tooltip="begin again at the end", layout={"width": "6em"})
        slider = w.IntSlider(value=0, min=0, max=last, description="frame", layout={"flex": "0 1 32em"})
        about = [f"{name} the speed of the clip" for name in SPEEDS]
        speed = w.ToggleButtons(options=list(SPEEDS), value="1×", tooltips=about, style={"button_width": "4em"})

        def set_speed(_change: Any = None) -> None:
            wanted = normal / SPEEDS[speed.value]
            play.interval = max(SHORTEST, round(wanted))
            play.step = max(1, round(play.interval / wanted))

        def set_name(change: Any) -> None:
            playing.description = "pause" if change.new else "play"

        set_speed()
        speed.observe(set_speed, "value")
        slider.observe(lambda change: setattr(picture, "value", self.look(change.new)), "value")
        playing.observe(set_name, "value")
        for one, other in (((play, "value"), slider), ((play, "playing"), playing), ((play, "repeat"), again)):
            w.jslink(one, (other, "value"))
        moved = w.HBox([play, playing, again, slider], layout={"width": "100%"})
        return stacked(moved, w.HBox([w.Label("speed"), speed]), picture, w.HTML(words(self.alt, self.caption)))


@styled
def draw_curves(curves: Mapping[str, np.ndarray], ylabel: str, width: int):
    """A picture `width` pixels wide and CURVE_HEIGHT high, each frame's column and row in it, and the axes' rows."""
    figure = Figure(figsize=(width / DPI, CURVE_HEIGHT / DPI), dpi=DPI, layout="constrained")
    ax = figure.subplots()
    for i, (name, values) in enumerate(curves.items()):
        look = {"color": COLOURS[0]} if i == 0 else {"color": GREY, "linestyle": ("--", ":", "-.")[i % 3 - 1]}
        ax.plot(values, label=plain(name), linewidth=1.3, **look)
    first = next(iter(curves.values()))
    ax.set(xlabel="frame", ylabel=ylabel, xlim=(-0.01 * len(first), 1.01 * len(first)))
    if len(curves) > 1:
        figure.legend(loc="outside upper right", ncols=len(curves), fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3]
    x, y = ax.transData.transform(np.column_stack([np.arange(len(first)), np.nan_to_num(first)])).T
    y[~np.isfinite(first)] = np.nan
    box, height = ax.get_window_extent(), figure.bbox.height
    return picture, x, height - y, (int(height - box.y1), int(height - box.y0))


def decibels(pred: np.ndarray, truth: np.ndarray, of: str = "frame") -> np.ndarray:
    """PSNR of each frame of two (T, H, W, 3) uint8 clips, (T,) dB, as `metrics.psnr_per_frame` measures it."""
    pair = (torch.from_numpy(np.array(clip)).permute(0, 3, 1, 2)[None] / 255 for clip in (pred, truth))
    return psnr_per_frame(*pair, of)[0].numpy()


def rollout_player(
    prediction: Any,
    truth: Any = None,
    pose: Any = None,
    *,
    n_past: int = 1,
    psnr: Any = None,
    of: str = "frame",
    caption: str = "",
) -> Player:
    """Prediction | ground truth | error map | pose of one clip, its PSNR under them.

    prediction: T frames (`media.to_uint8`) or a `Video` whose panels are called prediction, ground truth and pose.
    truth, pose: T frames each, or None; a pose of numbers (a robot's) is not drawn. psnr: (T - n_past,) dB of the
    predicted frames; by default measured on the bytes that are shown, as the baseline always is. of: what the dB are
    measured on, as in `metrics.psnr_per_frame`. Without a truth there is neither error map nor curve.
    """
    if isinstance(prediction, Video):
        video = prediction
        prediction, truth, pose = (video.panels.get(k) for k in ("prediction", "ground truth", "pose"))
        n_past, psnr, of = video.n_past, video.psnr if psnr is None else psnr, video.of
        if prediction is None:
            raise Lab4Error(f"video of {', '.join(video.panels)}: expected a panel called prediction")
    panels, curves = {"prediction": to_uint8(prediction)}, {}
    if truth is not None:
        panels["ground truth"] = to_uint8(truth)
        panels["error"] = error_map(*panels.values())
    if pose is not None and np.ndim(pose) == 4:
        panels["pose"] = to_uint8(pose)
    frames = len(panels["prediction"])
    if truth is not None:
        clip = panels["ground truth"]
        given = np.full(min(n_past, frames), np.nan)
        measured = decibels(panels["prediction"], clip, of)[n_past:] if psnr is None else np.asarray(psnr, float)
        still = decibels(np.broadcast_to(clip[n_past - 1 : n_past], clip.shape), clip, of)[n_past:]
        curves = {"this rollout": np.concatenate([given, measured]),
                  "repeat the first frame": np.concatenate([given, still])}  # fmt: skip
    about = "prediction, ground truth, error and pose" if len(panels) == 4 else ", ".join(panels)
    alt = f"film strip of a rollout: {about}" + ("; below, its PSNR frame by frame" if curves else "")
    where = " and their place on the curve (orange)" if curves else ""
    caption = caption or f"{STILLS} frames of the rollout{where}. In JupyterLab: play, pause, scrub, change the speed."
    return Player(panels, curves=curves, ylabel="PSNR (dB)", unit="dB", alt=alt, caption=caption)


def pose_player(frames: Any, pose: Any, *, caption: str = "") -> Player:
    """A clip beside its pose and its change from frame to frame (times 4), with the mean change as a curve.

    frames, pose: T frames each (`media.to_uint8`). The curve is the mean absolute change per pixel, in levels of 255.
    """
    frames, pose = to_uint8(frames), to_uint8(pose)
    change = np.abs(np.diff(frames.astype(np.int16), axis=0, prepend=frames[:1].astype(np.int16)))
    curve = change.mean((1, 2, 3))
    panels = {"frame": frames, "pose": pose, "change, times 4": np.minimum(4 * change, 255).astype(np.uint8)}
    caption = caption or f"{STILLS} frames of the clip, the pose of each, and what changed since the frame before."
    alt = "film strip of a clip: frames, poses, change since the frame before; below, the mean change frame by frame"
    return Player(panels, curves={"change": curve}, ylabel="change (levels)", unit="levels", alt=alt, caption=caption)
