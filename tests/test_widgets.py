"""The widgets without a browser: pure functions from a state to a picture, their static twins, and the thread that
follows a run. What a browser does with them is in test_browser.py."""

from __future__ import annotations

import io
import json
import time
from html import escape
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lab4_core import widgets
from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.media import Video
from lab4_core.runlog import Run, write_score
from lab4_core.scores import Score
from lab4_core.widgets import live, watcher
from lab4_core.widgets.comparison import overlay, series
from lab4_core.widgets.player import CURSOR, CURVE_HEIGHT, decibels

VIEW = "application/vnd.jupyter.widget-view+json"


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def clips(frames: int = 10, size: tuple[int, int] = (32, 64), seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(40, 200, (frames, *size, 3), dtype=np.uint8)
    return np.clip(truth + rng.integers(-20, 20, truth.shape), 0, 255).astype(np.uint8), truth, truth[::-1]


def write_log(folder: Path, steps: int, *, name: str = "a", seed: int = 0, finished: bool = False) -> Path:
    """A run's directory as training leaves it after so many steps, ten a record and two records an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = Config.from_dict({"name": name, "seed": seed, "steps": 100, "epochs": 5})
    (folder / "config.json").write_text(json.dumps(cfg.to_dict()))
    lines = []
    for step in range(10, steps + 1, 10):
        entry = {"epoch": (step - 1) // 20, "step": step, "loss": 1 / step, "mse": 0.5 / step, "kld": 30 / step,
                 "beta": 0.001 * step, "tfr": 0.0, "lr": 0.01, "seconds": 6.0 * step}  # fmt: skip
        lines.append({"kind": "step", **entry})
        if step % 20 == 0:
            lines.append({"kind": "epoch", **entry})
            known = {"psnr": 20 + step / 20, "repeat_first": 21.0, "copy_previous": 35.0}
            lines.append({"kind": "eval", "epoch": entry["epoch"], "step": step, "seconds": 6.0 * step, **known})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (folder / "result.json").write_text(json.dumps({"status": "finished", "psnr": 25.0}))
        curve = np.full((1, 9), 25.0) + seed
        write_score(folder / "scores.npz", Score(curve, curve / 100, {}))
    return folder


# -------------------------------------------------------------------------------------------------------- the players


def test_the_player_shows_the_frame_it_is_asked_for():
    pred, truth, pose = clips()
    player = widgets.rollout_player(pred, truth, pose)
    assert list(player.panels) == ["prediction", "ground truth", "error", "pose"]
    page = pixels(player.look(3))
    scale = player.scale
    first = page[18 : 18 + 32 * scale : scale, 6 : 6 + 64 * scale : scale]
    assert np.array_equal(first, pred[3])
    assert player.look(3) == player.look(3) != player.look(4), "a pure function of the frame"
    assert page.shape[1] <= 900


def test_the_cursor_stands_at_the_frame_and_its_value():
    pred, truth, _ = clips(frames=40)
    player = widgets.rollout_player(pred, truth)
    columns = []
    for frame in (1, 20, 39):
        strip = pixels(player.look(frame))[-CURVE_HEIGHT:]
        is_cursor = (strip == CURSOR).all(2)
        columns.append(int(np.median(np.flatnonzero(is_cursor.sum(0) > 50))))
        assert is_cursor.sum(1).max() >= 8, "a mark on the curve itself"
    assert columns[0] < columns[1] < columns[2]
    assert abs((columns[1] - columns[0]) - (columns[2] - columns[1])) <= 2, "frames are equally far apart"


def test_the_curve_of_a_rollout_is_its_psnr_and_the_given_frame_has_none():
    pred, truth, _ = clips()
    curves = widgets.rollout_player(pred, truth).curves
    assert list(curves) == ["this rollout", "repeat the first frame"]
    assert all(np.isnan(c[0]) and np.isfinite(c[1:]).all() for c in curves.values())
    expected = -10 * np.log10(np.square(pred[4] / 255 - truth[4] / 255).mean())
    assert curves["this rollout"][4] == pytest.approx(expected, abs=1e-3)
    given = widgets.rollout_player(pred, truth, n_past=2, psnr=np.arange(8.0))
    assert given.curves["this rollout"][2:].tolist() == list(range(8)) and np.isnan(given.curves["this rollout"][1])
    assert "given" in given.note(1) and "0.0 dB" in given.note(2)
    assert decibels(truth, truth).tolist() == [100.0] * len(truth)
    # the robot lab's PSNR, and its last given frame
    robot = widgets.rollout_player(pred, truth, n_past=2, of="channel")
    repeated, error = robot.curves["repeat the first frame"], np.square(truth[1] / 255.0 - truth[4] / 255.0)
    assert repeated[4] == pytest.approx(-10 * np.log10(error.mean((0, 1))).mean(), abs=1e-3)


def test_a_video_is_all_the_rollout_player_needs():
    pred, truth, pose = clips()
    video = Video({"prediction": pred, "ground truth": truth, "pose": pose}, psnr=list(range(9)))
    player = widgets.rollout_player(video)
    assert list(player.panels) == ["prediction", "ground truth", "error", "pose"]
    assert player.curves["this rollout"][1:].tolist() == list(range(9))
    alone = widgets.rollout_player(Video({"prediction": pred}))
    assert list(alone.panels) == ["prediction"] and not alone.curves
    assert pixels(alone.look(0)).shape[0] < pixels(player.look(0)).shape[0]
    with pytest.raises(Lab4Error, match="called prediction"):
        widgets.rollout_player(Video({"frame": pred}))


def test_the_pose_player_says_how_much_changes():
    frames = np.zeros((5, 32, 64, 3), np.uint8)
    frames[3:] += 8  # everything by 8 levels, once
    player = widgets.pose_player(frames, frames)
    assert player.curves["change"].tolist() == [0, 0, 0, 8, 0]
    assert player.panels["change, times 4"][3].max() == 32
    assert "8.0 levels" in player.note(3)


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (33, 47), (16, 32)])
def test_any_size_of_frame_can_be_played(size):
    pred, truth, pose = clips(size=size)
    for player in (widgets.rollout_player(pred, truth), widgets.pose_player(truth, pose)):
        assert pixels(player.look(9)).shape == pixels(player.look(0)).shape
        assert pixels(player.still()).shape[2] == 3


def test_what_cannot_be_played_is_one_error():
    pred, truth, _ = clips()
    player = widgets.rollout_player(pred, truth)
    for wrong in (-1, 10):
        with pytest.raises(Lab4Error, match=f"frame = {wrong}: expected 0 to 9"):
            player.look(wrong)
    with pytest.raises(Lab4Error, match="curve psnr: of shape"):
        widgets.Player({"a": pred}, curves={"psnr": [1, 2]})
    with pytest.raises(Lab4Error, match="differ in size"):
        widgets.rollout_player(pred, truth[:5])
    with pytest.raises(Lab4Error, match="fps = 0"):
        widgets.Player({"a": pred}, fps=0)


def parts(widget: ipywidgets.Widget, kind: type) -> list[ipywidgets.Widget]:
    found = [widget] if isinstance(widget, kind) else []
    return found + [part for child in getattr(widget, "children", ()) for part in parts(child, kind)]


def test_the_slider_changes_the_picture_and_the_speed_leaves_frames_out():
    pred, truth, _ = clips()
    player = widgets.rollout_player(pred, truth)
    (slider,), (image,) = parts(player.widget, ipywidgets.IntSlider), parts(player.widget, ipywidgets.Image)
    (play,), (speed,) = parts(player.widget, ipywidgets.Play), parts(player.widget, ipywidgets.ToggleButtons)
    assert play.layout.display == "none", "its buttons have no names"
    assert image.value == player.look(0)
    slider.value = 6
    assert image.value == player.look(6)
    per_second = {}
    for name in speed.options:
        speed.value = name
        per_second[name] = play.step * 1000 / play.interval
        assert play.interval >= 80, "no more pictures than the kernel can send"
    assert per_second == pytest.approx({"¼×": 5, "½×": 10, "1×": 20, "2×": 40, "4×": 80}, rel=0.26)
    assert player.widget is player.widget


# ---------------------------------------------------------------------------------------------------------- the knobs


def test_knobs_draw_at_their_values():
    drawn = []

    def look(power, kind, names, loud):
        drawn.append((power, kind, names, loud))
        return f"{power} {kind} {names} {loud}".encode()

    knobs = widgets.Knobs(
        look,
        {
            "power": widgets.Slider(2, 1, 5),
            "kind": widgets.Choice("b", ["a", "b"]),
            "names": widgets.Several(("x",), ["x", "y"]),
            "loud": widgets.Switch(False),
        },
        alt="a picture",
        labels={"power": "how much"},
    )
    assert knobs.still() == b"2 b ('x',) False"
    power, kind, names, loud, image, _ = knobs.widget.children
    assert power.description == "how much" and isinstance(power, ipywidgets.IntSlider)
    power.value, kind.value, names.value, loud.value = 4, "a", ("x", "y"), True
    assert image.value == b"4 a ('x', 'y') True" and drawn[-1] == (4, "a", ("x", "y"), True)


def test_a_figure_is_as_good_as_bytes_and_a_logarithmic_slider_counts_in_factors():
    def look(width):
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([0, width])
        return figure

    knobs = widgets.Knobs(look, {"width": widgets.Slider(1.0, 0.1, 10, 0.1, log=True)}, alt="a line")
    slider, image, _ = knobs.widget.children
    assert (slider.min, slider.max, slider.value) == (-1, 1, 1.0)
    assert pixels(image.value).shape[2] == 3


def test_a_knob_that_cannot_be_is_one_error():
    with pytest.raises(Lab4Error, match="low <= value <= high"):
        widgets.Slider(6, 0, 5)
    with pytest.raises(Lab4Error, match="with log a low above 0"):
        widgets.Slider(1, 0, 5, log=True)
    with pytest.raises(Lab4Error, match="'c': expected one of a, b"):
        widgets.Choice("c", ["a", "b"])
    with pytest.raises(Lab4Error, match="no knob"):
        widgets.Knobs(lambda: b"", {}, alt="")
    with pytest.raises(Lab4Error, match="labels for z"):
        widgets.Knobs(lambda a: b"", {"a": widgets.Switch(True)}, alt="", labels={"z": "?"})


# ---------------------------------------------------------------------------------------------- static twins, headless


def everything(folder: Path) -> list[widgets.Live]:
    pred, truth, pose = clips()
    run = Run(write_log(folder, 60, finished=True))
    knobs = widgets.Knobs(lambda a: Figure(figsize=(1, 1)), {"a": widgets.Switch(True)}, alt="empty")
    players = [widgets.rollout_player(pred, truth, pose), widgets.pose_player(truth, pose)]
    return [*players, widgets.watch(run), widgets.compare([run]), knobs]


def test_without_a_watcher_there_is_a_figure_and_no_widget(tmp_path: Path):
    for shown in everything(tmp_path / "run"):
        bundle = shown._repr_mimebundle_()
        assert set(bundle) == {"text/html", "image/png", "text/plain"}
        assert f'alt="{shown.alt}"' in bundle["text/html"] and shown.alt
        assert pixels(bundle["image/png"]).size
        assert "widget" not in vars(shown), "a widget was made for nobody"
        assert bundle["text/plain"] == repr(shown) == type(shown).__name__


def test_where_someone_watches_the_widget_brings_its_twin_along(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(live, "someone_watches", lambda: True)
    for shown in everything(tmp_path / "run"):
        bundle = shown._repr_mimebundle_()
        assert set(bundle) == {"text/html", "image/png", "text/plain", VIEW}
        assert bundle[VIEW]["model_id"] == shown.widget.model_id


def test_the_widget_has_the_words_of_its_twin_as_words(tmp_path: Path):
    knob = {"a": widgets.Switch(True)}
    hostile = widgets.Knobs(lambda a: Figure(figsize=(1, 1)), knob, alt="<b>alt</b>", caption="<img src=x>")
    for shown in [*everything(tmp_path / "run"), hostile]:
        said = "".join(part.value for part in parts(shown.widget, ipywidgets.HTML))
        caption = watcher.status(shown.folder) if isinstance(shown, widgets.Watcher) else shown.caption
        assert shown.alt and escape(shown.alt) in said and escape(caption) in said
        assert "<b>" not in said and "<img" not in said
        assert all(image.tooltip is None for image in parts(shown.widget, ipywidgets.Image)), "it would not be shown"


def test_who_sends_the_cell_says_whether_someone_watches(monkeypatch):
    import IPython

    for shell, expected in (
        (None, False),
        (SimpleNamespace(), False),  # a terminal
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=False)), False),  # papermill, nbval, nbconvert
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True)), True),
    ):
        monkeypatch.setattr(IPython, "get_ipython", lambda shell=shell: shell)
        assert live.someone_watches() is expected


# ----------------------------------------------------------------------------------------------------- watching a run


def test_the_status_of_a_run_at_every_age(tmp_path: Path):
    folder = tmp_path / "a-123456"
    assert watcher.status(folder) == "waiting for a-123456: no run there yet"
    write_log(folder, 0)
    assert watcher.status(folder) == "a: started"
    write_log(folder, 50)
    assert watcher.status(folder) == "a: training, step 50 of 100, epoch 2 of 5, loss 0.02, kld 0.6, val 22.00 dB"
    late = (folder / "metrics.jsonl").stat().st_mtime + 600
    assert watcher.status(folder, now=late).endswith("no news for 10 min")
    write_log(folder, 100, finished=True)
    assert watcher.status(folder, now=late).startswith("a: finished, step 100 of 100, epoch 5 of 5")
    (folder / "result.json").write_text(json.dumps({"status": "failed", "reason": "loss is nan at step 7"}))
    assert watcher.status(folder).endswith("failed, step 100 of 100, epoch 5 of 5, loss 0.01, kld 0.3, val 25.00 dB, "
                                           "loss is nan at step 7")  # fmt: skip


def test_the_picture_follows_the_log_and_survives_half_a_file(tmp_path: Path):
    folder = tmp_path / "a-123456"
    seen = [watcher.picture(folder)]
    for steps in (0, 10, 30, 60):
        write_log(folder, steps)
        seen.append(watcher.picture(folder))
    assert len(set(seen)) == len(seen), "every state has its own picture"
    with open(folder / "metrics.jsonl", "a") as log:
        log.write('{"kind": "step", "step": 70, "lo')
    assert watcher.picture(folder) == seen[-1], "a line that is being written does not count yet"
    (folder / "config.json").write_text("{")
    assert pixels(watcher.picture(folder)).size and watcher.status(folder).startswith("waiting")


def soon(what, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.01)
    return False


def test_the_watcher_draws_as_the_run_grows_and_ends_with_it(tmp_path: Path):
    folder = tmp_path / "a-123456"
    watch = widgets.watch(folder, every=0.02)
    line, image, _ = watch.widget.children
    assert "waiting" in line.value and watch.following
    pictures = {image.value}
    for steps in (20, 40):
        write_log(folder, steps)
        assert soon(lambda steps=steps: f"step {steps} of 100" in line.value and image.value not in pictures)
        pictures.add(image.value)
    write_log(folder, 100, finished=True)
    assert soon(lambda: not watch.following), "a finished run needs no watcher"
    assert "finished" in line.value and image.value not in pictures


def test_the_watcher_can_be_stopped_and_is_replaced(tmp_path: Path):
    folder = write_log(tmp_path / "a-123456", 20)
    watch = widgets.watch(folder, every=0.02)
    button = watch.widget.children[2]
    assert watch.following
    button.click()
    assert soon(lambda: not watch.following)
    before = watch.widget.children[1].value
    write_log(folder, 60)
    time.sleep(0.1)
    assert watch.widget.children[1].value == before
    second, third = widgets.watch(folder, every=0.02), widgets.watch(folder, every=0.02)
    assert second.widget and second.following
    assert third.widget and third.following and not second.following, "one thread a run"
    third.stop()
    assert not third.following
    with pytest.raises(Lab4Error, match="every = 0"):
        widgets.watch(folder, every=0)


def test_around_a_training_it_shows_the_run_as_it_ended(tmp_path: Path, capsys):
    folder = tmp_path / "a-123456"
    with widgets.watch(folder) as watch:
        write_log(folder, 100, finished=True)
    assert not watch.following
    assert "finished, step 100 of 100" in watch.caption
    assert "Watcher" in capsys.readouterr().out, "displayed once, after the run"


def test_text_of_a_run_is_text_in_the_page(tmp_path: Path):
    folder = write_log(tmp_path / "a-123456", 20)
    (folder / "result.json").write_text(json.dumps({"status": "failed", "reason": "<b>loss</b> is nan"}))
    watch = widgets.watch(folder)
    watch.widget.children[2].click()
    assert "&lt;b&gt;loss" in watch.widget.children[0].value and "<b>" not in watch.widget.children[0].value
    assert "<b>" not in watch._repr_mimebundle_()["text/html"]


# ------------------------------------------------------------------------------------------------------ runs compared


def test_runs_can_be_laid_over_one_another(tmp_path: Path):
    runs = [Run(write_log(tmp_path / f"a-{s}", 60, seed=s, finished=True)) for s in (0, 1)]
    x, y = series(runs[0], "validation PSNR", "minutes")
    assert x.tolist() == [2, 4, 6] and y.tolist() == [21, 22, 23]
    assert series(runs[1], "PSNR per frame")[1].tolist() == [26.0] * 9
    comparison = widgets.compare(runs)
    first = comparison.still()
    chosen, quantity, _, smoothing, image, _ = comparison.widget.children
    assert image.value == first
    one = chosen.options[:1]
    for control, value in ((quantity, "KL"), (smoothing, 5), (chosen, one), (quantity, "PSNR per frame")):
        before, control.value = image.value, value
        assert image.value != before, f"{control.description} = {value} changes nothing"
    chosen.value = ()
    assert pixels(image.value).size
    assert len(overlay(runs, "loss", smoothing=3).axes[0].lines) == 4, "each curve, and itself smoothed"


def test_runs_without_the_quantity_are_left_out(tmp_path: Path):
    young, old = Run(write_log(tmp_path / "a-0", 10)), Run(write_log(tmp_path / "b-0", 40, name="b"))
    assert [line.get_label() for line in overlay([young, old], "validation PSNR").axes[0].lines] == ["b"]
    assert not overlay([young], "validation PSNR").axes


def test_a_comparison_of_nothing_is_one_error(tmp_path: Path):
    with pytest.raises(Lab4Error, match="no run to compare"):
        widgets.compare([])
    run = Run(write_log(tmp_path / "a-0", 10))
    for wrong in (lambda: widgets.compare(run, quantity="speed"), lambda: series(run, "speed")):
        with pytest.raises(Lab4Error, match="'speed'"):
            wrong()
    same = [run, Run(write_log(tmp_path / "copy" / "a-0", 10))]
    assert widgets.compare(same).values["chosen"] == ("a (1)", "a (2)")
