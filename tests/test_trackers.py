"""W&B and TensorBoard beside the log: offline, optional, and named when they are missing."""

import sys
import types

import pytest

import lab4_core as l4
from lab4_core.config import Config
from lab4_core.errors import Lab4Error

TINY = {
    "data": {"kind": "dancer", "clips": 1, "frames": 12, "test_clips": 0},
    "model": {"kind": "compact", "width": 8},
    "n_frames": 3,
    "epochs": 2,
    "steps": 4,
    "eval_frames": 6,
    "device": "cpu",
}


def test_wandb_gets_every_record_and_nothing_is_sent(tmp_path, monkeypatch):
    logged, started = [], {}
    fake = types.SimpleNamespace(
        init=lambda **settings: (started.update(settings), fake)[1],
        log=lambda values, step: logged.append((step, values)),
        finish=lambda: logged.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = l4.train(Config.from_dict(TINY), out=tmp_path, loggers=("wandb",))
    assert started["mode"] == "offline" and started["config"]["epochs"] == 2
    assert logged[-1] == "finished"
    steps = [step for step, values in logged[:-1] if "epoch/loss" in values]
    assert steps == [record["step"] for record in run.metrics("epoch")] == [2, 4]
    assert any("eval/psnr" in values for _, values in logged[:-1])


def test_a_tracker_that_is_missing_or_unknown_is_named(tmp_path, monkeypatch):
    with pytest.raises(Lab4Error, match="did you mean 'wandb'"):
        l4.train(Config.from_dict(TINY), out=tmp_path, loggers=("wanb",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(Lab4Error, match=r"wandb' is not installed: pip install 'lab4\[wandb\]'"):
        l4.train(Config.from_dict(TINY), out=tmp_path, loggers=("wandb",))
