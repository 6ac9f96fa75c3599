"""The curves of time to quality are those of the runs, and are drawn."""

import json

import pytest

from lab4_core import plots
from lab4_core.errors import Lab4Error
from lab4_core.quality import minutes_to, time_to_quality

TINY = {"data": {"kind": "dancer", "clips": 1, "frames": 24, "test_clips": 1}, "eval_frames": 6, "batch_size": 2,
        "n_frames": 3, "epochs": 4, "device": "cpu"}  # fmt: skip


def test_every_preset_gets_its_minutes_and_a_curve(tmp_path):
    narrow = {**TINY, "model": {"kind": "compact", "width": 8}}
    found = time_to_quality(0.03, out=tmp_path, presets=("compact", "best"), json_path=tmp_path / "q.json",
                            overrides=narrow)  # fmt: skip
    assert json.loads((tmp_path / "q.json").read_text()) == json.loads(json.dumps(found))
    for curve in found["curves"].values():
        minutes = [m for m, _ in curve]
        assert 2 <= len(curve) <= 4 and minutes == sorted(minutes) and minutes[-1] >= 0.03
    assert found["repeat_first"] > 10 and found["device"]
    figure = plots.plot_quality(found)
    (ax,) = figure.axes
    assert [line.get_label() for line in ax.lines] == ["compact", "best", "repeat the first frame"]
    assert list(ax.lines[0].get_ydata()) == [psnr for _, psnr in found["curves"]["compact"]]


def test_minutes_to():
    curve = [[1.0, 20.0], [2.0, 31.0], [3.0, 29.0], [4.0, 32.0]]
    assert minutes_to(curve, 30.0) == 2.0 and minutes_to(curve, 31.5) == 4.0 and minutes_to(curve, 33.0) is None


def test_no_minutes():
    with pytest.raises(Lab4Error, match="quality = 0: expected more than 0 minutes"):
        time_to_quality(0)
