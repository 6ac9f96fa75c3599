"""The curves of time to quality are those of the runs, and are drawn."""

import json
from types import SimpleNamespace

import pytest

from lab4_core import plots
from lab4_core.bench import quality
from lab4_core.bench.quality import at_equal_minutes, curve_of, in_words, minutes_to, time_to_quality
from lab4_core.clock import Clock
from lab4_core.errors import Lab4Error
from lab4_core.presets import load_config
from lab4_core.runlog import Run

TINY = {"data": {"kind": "dancer", "clips": 1, "frames": 24, "test_clips": 1}, "eval_frames": 6, "batch_size": 2,
        "n_frames": 3, "epochs": 4, "device": "cpu"}  # fmt: skip


def test_every_preset_gets_its_minutes_and_a_curve(tmp_path):
    narrow = {**TINY, "model": {"kind": "compact", "width": 8}}
    found = time_to_quality(0.03, out=tmp_path, presets=("compact", "best"), json_path=tmp_path / "q.json",
                            overrides=narrow)  # fmt: skip
    assert json.loads((tmp_path / "q.json").read_text()) == json.loads(json.dumps(found))
    for curve in found["curves"].values():
        minutes = [m for m, _ in curve]
        assert 2 <= len(curve) <= 4 and minutes == sorted(minutes) and minutes[-1] > 0.01
    for folder in ("quality-compact-*", "quality-best-*"):
        run = Run(next(tmp_path.glob(folder)))
        assert run.result["seconds"] >= 0.03 * 60, "with its evaluations"
        assert all(s.kind not in ("warm_start", "averaged_views") for s in run.config.strategies), "random weights"
    assert found["repeat_first"] > 10 and found["device"]
    figure = plots.plot_quality(found, found)
    ax, other = figure.axes
    assert len(other.lines) == 3 and "dancer" in other.get_title()
    assert [line.get_label() for line in ax.lines] == ["compact", "best", "repeat the first frame"]
    assert list(ax.lines[0].get_ydata()) == [psnr for _, psnr in found["curves"]["compact"]]


@pytest.fixture
def asked(monkeypatch):
    """The configurations that would have been trained, by name; each run has evaluations after one minute and two."""
    configurations = {}

    def train(cfg, out):
        configurations[cfg.name] = cfg
        evaluations = [
            {"seconds": 60.0 * m, "eval_seconds": 6.0, "psnr": 28.0 + m, "repeat_first": 20.0} for m in (1, 2)
        ]
        result = {"steps": 1, "device": "d", "data": {}, "protocol": {"split": "val"}}
        return SimpleNamespace(finished=True, metrics=lambda kind: evaluations, result=result)

    monkeypatch.setattr(quality, "train", train)
    return configurations


def test_lab_may_get_a_multiple_of_what_best_needs_to_the_target(asked):
    found = time_to_quality(5, lab_times=30)
    lengths = {name: cfg.minutes for name, cfg in asked.items()}
    assert lengths == {"quality-best": 5, "quality-compact": 5, "quality-lab": pytest.approx(30 * 1.9)}
    assert list(found["curves"]) == ["lab", "compact", "best"]
    assert in_words(found)[0] == "lab        30.00 dB after 1.9 min and 1 steps, 30 dB after 1.9 min"
    time_to_quality(60, lab_times=30)
    assert asked["quality-lab"].minutes == 60, "never less than the others"


def test_evaluations_are_not_training():
    evaluations = [
        {"seconds": 60, "eval_seconds": 30, "psnr": 20.0},
        {"seconds": 150, "eval_seconds": 30, "psnr": 21.0},
    ]
    assert curve_of(evaluations) == [[1.0, 20.0], [2.0, 21.0]]


def test_minutes_to():
    curve = [[1.0, 20.0], [2.0, 31.0], [3.0, 29.0], [4.0, 32.0]]
    assert minutes_to(curve, 29.0) == 2.0 and minutes_to(curve, 31.5) == 4.0 and minutes_to(curve, 33.0) is None
    assert minutes_to(curve, 30.0) == 4.0, "31 dB of a model that copied do not count when they are lost again"
    assert minutes_to(curve[:3], 30.0) is None and minutes_to([], 30.0) is None


def test_presets_are_ranked_after_equal_minutes():
    curves = {
        "lab": [[1, 20.0], [4, 21.0], [30, 25.0]],
        "compact": [[2, 27.0], [5, 30.0]],
        "best": [[3, 29.0], [6, 33.0]],
    }
    minutes, ranked = at_equal_minutes({"curves": curves})
    assert minutes == 5 and list(ranked.items()) == [("compact", 30.0), ("best", 29.0), ("lab", 21.0)]
    curves["lab"] += [[31, 30.5], [32, 29.0]]  # as a model that copied first
    words = in_words({"curves": curves, "steps": dict.fromkeys(curves, 1000)})
    assert words[0].endswith("30 dB lost again") and words[1].endswith("30 dB after 5.0 min")
    assert words[-1] == "after 5.0 min each: compact 30.00 dB > best 29.00 dB > lab 21.00 dB"
    curves["lab"] = curves["lab"][:3]
    assert in_words({"curves": curves, "steps": dict.fromkeys(curves, 1000)})[0].endswith("30 dB never reached")


def test_no_minutes():
    with pytest.raises(Lab4Error, match="quality = 0: expected more than 0 minutes"):
        time_to_quality(0)
    with pytest.raises(Lab4Error, match="lab_times = -1: expected 0 or more"):
        time_to_quality(1, lab_times=-1)


def test_presets_keep_their_epochs(asked):
    """Schedules are counted in them: ten epochs of the lab's ten cycles would be a beta of 0 throughout."""
    time_to_quality(5)
    for preset in quality.PRESETS:
        cfg, usual = asked[f"quality-{preset}"], load_config("full", preset)
        begins = quality.BEGINNING.get(preset, {})
        begins = {**begins, "strategies": [s for s in usual.strategies if s.kind not in quality.WITHOUT]}
        assert cfg.replace(name="x", minutes=None, eval_every=1) == usual.replace(name="x", eval_every=1, **begins)
        if preset in quality.BEGINNING:  # what a run in its first epoch has, and for as long as it is there
            at = [Clock(c, [(0, 2520)]).at(0, 0.0) for c in (cfg, usual)]
            assert at[0].of(cfg.lr_schedule) == at[1].of(usual.lr_schedule) == 1
            assert at[0].of(cfg.annealing) == at[1].of(usual.annealing) == 0
            assert cfg.teacher_forcing.ratio_at(0, 70) == usual.teacher_forcing.ratio_at(0, 70) == 1
        assert cfg.epochs // cfg.eval_every == {"lab": 2}.get(preset, 20)


def test_a_preset_has_one_colour_in_all_panels():
    one = {"curves": {"best": [[1, 20.0]]}, "repeat_first": 20.0, "data": {"name": "a"}, "split": "val", "device": "d"}
    two = {**one, "curves": {"lab": [[1, 10.0]], "best": [[1, 20.0]]}}
    figure = plots.plot_quality(one, two)
    colours = [{line.get_label(): line.get_color() for line in ax.lines} for ax in figure.axes]
    assert colours[0]["best"] == colours[1]["best"] != colours[1]["lab"]
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"best", "lab", "repeat the first frame"}
