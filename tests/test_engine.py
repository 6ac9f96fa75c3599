"""A run from end to end: it learns, it resumes exactly, it says what went wrong."""

import dataclasses

import numpy as np
import pytest
import torch

import lab4_core as l4
from lab4_core import checkpoint, engine
from lab4_core.clock import Clock
from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.inference import load_model

TINY = {
    "data": {"kind": "dancer", "clips": 2, "frames": 40, "test_clips": 2},
    "model": {"kind": "compact", "width": 8},
    "optimizer": {"kind": "adamw", "lr": 2e-3},
    "lr_schedule": "constant",
    "beta": 1e-5,
    "annealing": {"kind": "cyclical", "cycles": 2, "unit": "step"},
    "teacher_forcing": {"kind": "constant", "ratio": 0.5, "draw": "frame"},
    "strategies": ["ema", "input_noise", "distant_start"],
    "n_frames": 4,
    "windows": "random",
    "batch_size": 4,
    "epochs": 2,
    "eval_frames": 20,
    "device": "cpu",
}


def config(**changes):
    return Config.from_dict({**TINY, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six steps of it, to look at."""
    return l4.train(config(steps=6, epochs=1), out=tmp_path_factory.mktemp("runs"))


def test_training_lowers_the_loss_and_beats_the_baseline(tmp_path):
    """The recipe of the report, a seventh as long: on a clip it has not seen, over 629 predicted frames."""
    cfg = l4.load_config("demo", "compact", overrides={"steps": 150, "eval_every": 0, "annealing": "monotonic"})
    run = l4.train(cfg, out=tmp_path)
    epochs = run.metrics("epoch")
    assert epochs[-1]["mse"] < 0.5 * epochs[0]["mse"]
    result = run.result
    assert result["status"] == "finished" and result["steps"] == 150
    assert result["psnr"] > result["baselines"]["repeat_first"]["psnr"] + 1
    assert result["protocol"]["z"].startswith("N(0, I)") and result["protocol"]["scored_frames"] == "1..629"
    score = run.scores()
    assert score.psnr.shape == (1, 629) and score.mean == pytest.approx(result["psnr"], abs=1e-3)


def test_an_evaluation_repeats_and_names_the_effective_beta(run):
    np.testing.assert_allclose(l4.evaluate(run, device="cpu").psnr, run.scores().psnr, atol=1e-3)
    # two ramps of three steps each: the last of a ramp is at two thirds
    assert run.result["effective_beta"] == pytest.approx(2 / 3 * 1e-5 * 3 * 32 * 64, rel=1e-6)


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path, monkeypatch, capsys):
    run = l4.train(config(steps=4), out=tmp_path)
    monkeypatch.setattr(engine.Learner, "step", lambda *a: pytest.fail("trained again"))
    assert l4.train(config(steps=4, name="run"), out=tmp_path).dir == run.dir
    assert "its parts changed" not in capsys.readouterr().err
    monkeypatch.setattr(Config, "code", lambda self: "another")
    assert l4.train(config(steps=4), out=tmp_path).dir == run.dir
    assert "its parts changed; it is not trained again" in capsys.readouterr().err


@pytest.mark.parametrize(("keep", "epoch"), [("best", 0), ("last", 2)])
def test_which_weights_are_kept(keep, epoch, tmp_path, monkeypatch):
    score_model, looks = engine.score_model, []

    def worse_and_worse(*arguments, **more):
        score = score_model(*arguments, **more)
        looks.append(score)
        return dataclasses.replace(score, psnr=score.psnr - len(looks))

    monkeypatch.setattr(engine, "score_model", worse_and_worse)
    run = l4.train(config(steps=3, epochs=3, eval_every=1, keep=keep), out=tmp_path)
    assert len(looks) == 3 and run.result["best_epoch"] == epoch
    assert run.result["psnr"] == pytest.approx(looks[epoch].mean - epoch - 1, abs=1e-3)
    assert keep in run.result["protocol"]["weights"]


def test_the_preset_for_a_gpu_trains(tmp_path):
    small = {"data": TINY["data"], "batch_size": 1, "steps": 2, "epochs": 1, "eval_every": 0, "eval_frames": 4}
    run = l4.train(l4.load_config("full", "best-gpu", overrides=small | {"device": "cpu"}), out=tmp_path)
    assert run.finished and run.result["parameters"] > 4 * 1_591_036


def test_minutes_end_the_run_in_time_and_reach_the_end_of_the_schedules(tmp_path):
    cfg = config(minutes=0.05, epochs=3, eval_every=0)
    run = l4.train(cfg, out=tmp_path)
    assert 3 <= run.result["seconds"] < 60, "no step begins after the time is up"
    epochs = [r["epoch"] for r in run.metrics("epoch")]
    assert epochs == sorted(set(epochs)) and epochs[-1] == 2


def test_rollout_and_test_hand_in_every_clip(run, tmp_path):
    data = l4.load_data(run.config)
    clip = data.test[0]
    a, b = (l4.predict(run, clip.first, clip.cond, seed=s) for s in (0, 0))
    assert a.shape == (40, 3, 32, 64) and torch.equal(a, b) and a.min() >= 0 and a.max() <= 1
    assert torch.equal(a[0], clip.first[0].float() / 255), "frame 0 is the given one"
    video = l4.rollout(run, clip.first, clip.cond)
    assert set(video._repr_mimebundle_()) >= {"text/html", "image/png", "text/plain"}
    written = l4.test(run, out=tmp_path / "out")
    pictures = [f"pred_seq{i}{suffix}" for i in range(2) for suffix in (".gif", ".png")]
    assert [p.name for p in written] == ["submission.csv", *pictures]
    assert len(written[0].read_text().splitlines()) == 1 + 2 * 40
    with pytest.raises(Lab4Error, match="not what the model"):
        l4.predict(run, clip.first[..., :8, :8], clip.cond)
    with pytest.raises(Lab4Error, match=r"panels differ in size: prediction \(40, .* ground truth \(39, "):
        l4.rollout(run, clip.first, clip.cond, truth=clip.cond[1:])


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run = l4.train(config(steps=4, epochs=1), out=tmp_path)
    state = checkpoint.load(run.dir / "best.pt")
    state["model"] = {"kind": "compact", "width": 16}
    checkpoint.save(run.dir / "best.pt", state)
    with pytest.raises(Lab4Error, match="a checkpoint of another model"):
        load_model(run)


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Lab4Error, match="cannot write"):
        l4.train(config(), out=tmp_path / "file")


def test_a_clip_that_is_left_out_stays_out_when_the_data_are_passed(tmp_path):
    cfg = config(hold_out=0, epochs=1, steps=2)
    whole = l4.load_data(cfg.replace(hold_out=None))
    run = l4.train(cfg, out=tmp_path, data=whole)
    assert run.result["protocol"]["split"] == "training clip 0, left out"
    again = l4.evaluate(run, data=whole, device="cpu")
    assert again.protocol["split"] == "training clip 0, left out"
    assert np.allclose(again.psnr, run.scores().psnr, atol=1e-3)
    begin = whole.train.starts[0]
    first, second = whole.train.frames[begin : begin + 2] / 255
    expected = -10 * (first - second).square().mean().log10().item()
    assert run.scores().baselines["repeat_first"]["psnr"][0, 0] == pytest.approx(expected, abs=1e-3)
    assert l4.evaluate(run, split="train", data=whole, device="cpu").protocol["split"] == "train"


def test_what_cannot_be_scored_is_refused_before_the_training(run, tmp_path):
    with pytest.raises(Lab4Error, match="frames of 8 x 64 pixels; expected 11 or more"):
        l4.train(config(**{"data.height": 8}), out=tmp_path)
    for samples in (0, -1):
        with pytest.raises(Lab4Error, match=f"samples = {samples}: expected 1 or more"):
            l4.evaluate(run, n_samples=samples)


def test_the_effective_beta_is_that_of_the_run(tmp_path, capsys):
    """Ten cycles in ten epochs are ten beginnings of a ramp: the highest beta is 0, and so is the effective one."""
    run = l4.train(config(epochs=2, steps=2, annealing="cyclical"), out=tmp_path)
    assert run.result["effective_beta"] == 0
    said = capsys.readouterr().err
    assert "lab4: beta is 0 throughout this run: cyclical annealing counts in epochs, too few here to rise" in said
    for annealing in ("none", {"kind": "none", "stop": 0.0}, {"kind": "cyclical", "unit": "step"}):
        l4.train(config(epochs=2, steps=40, annealing=annealing), out=tmp_path)
    assert "beta is 0" not in capsys.readouterr().err, "it rises, or nobody asked for it"
    clock = Clock(config(steps=100, epochs=10), [(0, 40)])
    assert [clock.at(step, 0.0).step for step in range(100)] == list(range(100))
    assert [clock.at(step, 0.0).epoch for step in range(100)] == [step // 10 for step in range(100)]
