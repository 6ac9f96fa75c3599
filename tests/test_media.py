import base64
import io
import re

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image

from lab4_core import gif, media
from lab4_core.config import Config
from lab4_core.data import load_data
from lab4_core.errors import Lab4Error
from lab4_core.media import Video, error_map, film_strip, frame_notes, save_gif, save_mp4, side_by_side, to_uint8


def moving_square(t=12, h=32, w=64):
    """A dark square that crosses a grey gradient: (t, h, w, 3) uint8."""
    x = np.linspace(120, 190, w)[None, None, :, None] * np.ones((t, h, w, 3))
    for i in range(t):
        x[i, 10:20, 2 * i : 2 * i + 8] = (30, 40, 90)
    return x.round().astype(np.uint8)


def test_values_outside_the_range_are_clipped_not_wrapped():
    x = np.zeros((1, 2, 2, 3), np.float32)
    x[0, 0, 0], x[0, 0, 1], x[0, 1, 0] = 1.01, -0.01, 0.5
    assert to_uint8(x)[0, :, :, 0].tolist() == [[255, 0], [128, 0]]


def test_layouts_and_types_agree():
    frames = moving_square(3)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for same in (frames, tensor, tensor.numpy(), tensor / 255, frames / 255.0, (tensor / 255).requires_grad_()):
        assert np.array_equal(to_uint8(same), frames)
    assert to_uint8((tensor / 255).bfloat16()).shape == frames.shape  # a type numpy does not have
    three_wide = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).reshape(2, 3, 4, 3)
    assert np.array_equal(to_uint8(three_wide), three_wide.permute(0, 2, 3, 1).numpy())  # torch is channels first


def test_grey_clips_are_shown_as_they_are():
    grey = moving_square(3)[..., :1]
    shown = grey.repeat(3, axis=3)
    tensor = torch.from_numpy(grey).permute(0, 3, 1, 2)
    for same in (grey, tensor, tensor.numpy(), tensor / 255):
        assert np.array_equal(to_uint8(same), shown)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((32, 64, 3), np.uint8), r"shape \(32, 64, 3\)"),
        (np.zeros((2, 2, 32, 64), np.uint8), r"shape \(2, 2, 32, 64\)"),
        (np.zeros((0, 32, 64, 3), np.uint8), r"shape \(0, 32"),
        (np.zeros((2, 32, 64, 3), np.int64), "int64"),
        (np.stack([np.zeros((4, 4, 3)), np.full((4, 4, 3), np.nan)]), "frame 1 holds NaN"),
    ],
)
def test_what_is_no_clip_is_refused(images, said):
    with pytest.raises(Lab4Error, match=said):
        to_uint8(images)


def test_error_map_by_hand():
    truth = np.zeros((1, 1, 3, 3), np.uint8)
    pred = truth.copy()
    pred[0, 0, 1] = (96, 0, 0)  # a mean of 32 levels, half of limit = 64 levels
    pred[0, 0, 2] = 255
    black, half, full = error_map(pred, truth, limit=64 / 255)[0, 0].astype(int)
    assert black.sum() < 10 < half.sum() < full.sum()
    assert full.tolist() == [252, 253, 191]  # the last colour of magma
    assert abs(half - [183, 55, 121]).max() <= 2  # and its middle


def test_panels_stand_side_by_side_enlarged():
    frames = moving_square(5)
    page = side_by_side({"prediction": frames, "pose": 255 - frames}, scale=3, notes=frame_notes(5))
    top, left = media.TEXT_HEIGHT, media.GUTTER
    assert np.array_equal(page[:, top : top + 96 : 3, left : left + 192 : 3], frames)
    left += 192 + media.GUTTER
    assert np.array_equal(page[:, top + 2 : top + 96 : 3, left + 2 : left + 192 : 3], 255 - frames)
    assert (page[:, : top - 1] < 100).any(), "no caption"
    assert (page[1, -media.TEXT_HEIGHT + 1 :] != page[2, -media.TEXT_HEIGHT + 1 :]).any(), "the note does not change"


def test_panels_of_other_sizes_and_missing_notes_are_refused():
    with pytest.raises(Lab4Error, match=r"pose \(4, 32, 64, 3\)"):
        side_by_side({"prediction": moving_square(5), "pose": moving_square(4)})
    with pytest.raises(Lab4Error, match="3 notes for 5 frames"):
        side_by_side({"prediction": moving_square(5)}, notes=["a"] * 3)
    with pytest.raises(Lab4Error, match="no panel"):
        Video({})


def test_notes_give_each_frame_its_own_psnr():
    notes = frame_notes(4, [30.0, 31.26], n_past=2)
    assert "given" in notes[1] and "frame 2" in notes[2] and "30.0 dB" in notes[2] and "31.3 dB" in notes[3]
    with pytest.raises(Lab4Error, match="4 PSNR values for 4 frames"):
        Video({"prediction": moving_square(4)}, psnr=[1.0] * 4)


def test_film_strip_shows_the_chosen_frames():
    frames = moving_square(9)
    strip = film_strip({"ground truth": frames}, every=4, scale=2)
    width = frames.shape[2] * 2 + 2
    shown = strip[media.TEXT_HEIGHT : media.TEXT_HEIGHT + 64, -3 * width :]
    for column, t in enumerate((0, 4, 8)):
        inner = shown[2:-2:2, column * width + 2 : column * width + 126 : 2]
        assert np.array_equal(inner, frames[t, 1:-1, 1:-1])
    assert media.chosen_frames(630, 8) == [0, 90, 180, 270, 359, 449, 539, 629]
    assert media.chosen_frames(3, 8) == [0, 1, 2]


def test_gif_is_the_clip_loops_and_keeps_its_time(tmp_path):
    frames = moving_square(20)
    path = save_gif(tmp_path / "a.gif", frames, fps=20)
    with Image.open(path) as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (20, 50, 0)
    read = iio.imread(path, plugin="pillow", mode="RGB").astype(int)
    assert np.abs(read - frames).max() <= 6
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary is left


def test_gif_holds_still_what_stands_still_and_the_page_stays_white():
    rng = np.random.default_rng(0)
    frames = moving_square(30)
    frames[:, :, 32:] = np.clip(frames[:, :, 32:] + rng.normal(0, 0.8, frames[:, :, 32:].shape).round(), 0, 255)
    frames[:, 20:] = 255
    palette = gif.palette_of(frames)
    shown = palette[gif.indexed(frames, palette, tolerance=4)].astype(int)
    noise = np.abs(np.diff(frames[:, :10, 32:].astype(int), axis=0)).mean()
    assert noise > 0.5 and np.abs(np.diff(shown[:, :10, 32:], axis=0)).mean() < 0.1 * noise
    assert np.abs(shown - frames).max() <= 8
    assert (shown[:, 20:] == 255).all()


def test_gif_puts_the_page_back_where_a_limb_leaves_in_steps():
    palette = np.repeat(np.uint8([[255], [252], [40], [44]]), 3, axis=1)
    grey = np.uint8([255, 40, 44, 252, 255])  # within the tolerance of four, 44 after 40 is held and 255 is not
    frames = np.broadcast_to(grey[:, None, None, None], (5, 2, 2, 3))
    assert gif.indexed(frames, palette, tolerance=4)[:, 0, 0].tolist() == [0, 2, 2, 1, 0]


def test_mp4_is_the_clip_even_when_its_size_is_odd(tmp_path):
    frames = np.repeat(np.repeat(moving_square(20, 31, 63), 3, 1), 3, 2)  # 93 x 189
    path = save_mp4(tmp_path / "a.mp4", frames, fps=10)
    meta = iio.immeta(path, plugin="FFMPEG")
    assert meta["codec"].startswith("h264") and meta["fps"] == 10 and meta["size"] == (190, 94)
    assert "yuv420p" in meta["pix_fmt"]
    read = iio.imread(path, plugin="FFMPEG").astype(int)
    assert len(read) == 20
    assert np.abs(read[:, :93, :189] - frames).mean() < 4
    assert np.abs(read[:, 93, :189] - frames[:, 92]).mean() < 6  # the line that was added goes on as the picture ends


def test_the_strip_beside_a_moving_picture_is_small_and_nearly_exact():
    dancer = load_data(Config.from_dict({"data": {"kind": "dancer", "clips": 1, "frames": 24, "test_clips": 1}})).train
    video = Video({"truth": dancer.frames, "pose": dancer.cond}, every=4)
    stored, exact = video._repr_mimebundle_()["image/png"], video.strip()
    with Image.open(io.BytesIO(stored)) as image:
        apart = np.abs(np.asarray(image.convert("RGB")).astype(int) - exact)
    assert apart.max() <= 16 and apart.mean() < 2, "levels of 255"
    assert len(stored) < len(media.png_bytes(exact)) / 2


def test_fps_out_of_range_and_other_suffixes_are_refused(tmp_path):
    with pytest.raises(Lab4Error, match="fps = 0"):
        save_gif(tmp_path / "a.gif", moving_square(2), fps=0)
    with pytest.raises(Lab4Error, match=r"\.gif, \.mp4 or \.png"):
        Video({"prediction": moving_square(2)}).save(tmp_path / "a.avi")
    assert not list(tmp_path.iterdir())


def test_video_saves_every_frame_by_suffix(tmp_path):
    video = Video({"prediction": moving_square(10), "pose": moving_square(10)}, every=5)
    with Image.open(video.save(tmp_path / "sub" / "a.gif")) as image:
        assert image.n_frames == 10
    assert len(iio.imread(video.save(tmp_path / "a.MP4"), plugin="FFMPEG")) == 10
    with Image.open(video.save(tmp_path / "a.png")) as image:
        assert np.array_equal(np.asarray(image), video.strip())
    assert np.array_equal(video.frames, moving_square(10))


def embedded(html):
    soup = BeautifulSoup(html, "html.parser")
    tag = soup.find(["img", "video"])
    kind, content = re.fullmatch(r"data:([a-z/0-9]+);base64,(.*)", tag["src"]).groups()
    return soup, tag, kind, base64.b64decode(content)


def test_video_shows_itself_as_html_png_and_constant_text(tmp_path):
    video = Video({"prediction": moving_square(6)}, title='<script>"x"</script>', alt='a "quoted" <alt>')
    bundle = video._repr_mimebundle_()
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    soup, tag, kind, content = embedded(bundle["text/html"])
    assert (tag.name, tag["alt"], kind, content[:6]) == ("img", 'a "quoted" <alt>', "image/gif", b"GIF89a")
    assert soup.script is None and '<script>"x"</script>. 6 frames.' in soup.figcaption.text
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert (
        bundle["text/plain"] == Video({"prediction": moving_square(9)}, title="other")._repr_mimebundle_()["text/plain"]
    )


def test_a_long_clip_is_thinned_in_the_page_and_says_so(tmp_path):
    video = Video({"prediction": moving_square(330, 8, 1000)}, scale=1)
    soup, tag, _, content = embedded(video.to_html())
    (tmp_path / "a.gif").write_bytes(content)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.info["duration"]) == (110, 100)  # 1 in 3: 6.7 a second is raised to 10
    assert "330 frames, 1 in 3 shown, 1.5 times as fast" in soup.figcaption.text
    assert tag["alt"]  # one is made where none is given


def test_video_as_mp4_in_the_page(tmp_path):
    _, tag, kind, content = embedded(Video({"prediction": moving_square(6)}, alt="a", embed="mp4").to_html())
    assert (tag.name, tag["aria-label"], kind, content[4:8]) == ("video", "a", "video/mp4", b"ftyp")
    (tmp_path / "a.mp4").write_bytes(content)
    assert (iio.imread(tmp_path / "a.mp4")[:, -48:] > 250).all()  # room for the browser's controls
    with pytest.raises(Lab4Error, match="'webp'"):
        Video({"prediction": moving_square(6)}, embed="webp")


def test_a_film_strip_of_chosen_frames_numbers_them():
    """The columns are the frames one asks for, and what stands above them are their numbers in the clip."""
    clip = moving_square(12)
    strip = film_strip({"clip": clip}, frames=[0, 7, 11])
    picked = film_strip({"clip": clip[[0, 7, 11]]}, every=1)
    assert strip.shape == picked.shape
    assert np.array_equal(strip[18:], picked[18:]), "the same pictures"
    assert not np.array_equal(strip[:18], picked[:18]), "under other numbers"
