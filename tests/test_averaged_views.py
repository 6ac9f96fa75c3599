"""Predictions of the same person a pixel further, brought back and averaged."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lab4_core as l4
from lab4_core.config import Config
from lab4_core.data import load_data
from lab4_core.errors import Lab4Error
from lab4_core.metrics import psnr_per_frame
from lab4_core.runlog import read_score
from lab4_core.strategies import AveragedViews, averaged_views

H, W, TOP, BODY = 32, 64, 8, 0.1
LEFT = torch.tensor([20, 31, 40])  # of the person, in three clips
ROOM = torch.linspace(0.7, 0.95, W).expand(3, H, W).contiguous()
MODEL = SimpleNamespace(empty_scene=lambda: ROOM)
GREEN, YELLOW = torch.tensor([40, 150, 255]) / 255, torch.tensor([0, 215, 255]) / 255  # of one side and of the other


def poses(left: torch.Tensor, frames: int) -> torch.Tensor:
    """One green line each, at the left side of a person 4 pixels wide who walks a pixel a frame."""
    cond = torch.ones(len(left), frames, 3, H, W)
    for i, t in np.ndindex(len(left), frames):
        cond[i, t, :, TOP : TOP + 16, left[i] + t] = GREEN.view(3, 1)
    return cond


def drawn(cond: torch.Tensor, colour=lambda column: BODY) -> torch.Tensor:
    """The room with a person to the right of each green line, or to the left of each line of the other side."""
    x = ROOM.expand(*cond.shape[:2], 3, H, W).clone()
    for i, t in np.ndindex(*cond.shape[:2]):
        row, line = (int(v) for v in (cond[i, t].amin(0) < 0.9).nonzero()[0])
        green = (cond[i, t, :, row, line] - GREEN).abs().max() < (cond[i, t, :, row, line] - YELLOW).abs().max()
        left = line if green else line - 3
        x[i, t, :, row : row + 16, left : left + 4] = colour(line)
    return x


def predicted(strategy: AveragedViews, colour, frames: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """What the strategy makes of a model that draws people in the colour of their place, and what that model itself
    says."""
    cond = poses(LEFT, frames)

    def rollout(past, cond):
        return drawn(cond, colour)[:, 1:]

    return strategy.roll_out(rollout, MODEL, drawn(cond[:, :1]), cond), drawn(cond, colour)[:, 1:]


def test_a_model_that_answers_alike_everywhere_keeps_its_answer():
    mean, plain = predicted(AveragedViews(), lambda column: BODY)
    assert torch.allclose(mean, plain, atol=1e-5)


def test_errors_that_change_with_the_place_are_averaged():
    """A model that is too bright in even columns and too dark in odd ones: of three columns two are alike."""
    mean, plain = predicted(
        AveragedViews(right=1, down=0, mirrored=False), lambda column: BODY + (0.03 if column % 2 == 0 else -0.03)
    )
    true = drawn(poses(LEFT, 4))[:, 1:]
    assert torch.allclose((plain - true).abs().amax((2, 3, 4)), torch.tensor(0.03))
    assert torch.allclose((mean - true).abs().amax((2, 3, 4)), torch.tensor(0.01), atol=1e-4)
    assert torch.allclose(mean - true, (true - plain) / 3, atol=1e-4)


@pytest.mark.parametrize("at_once", [24, 7])
def test_every_view_is_of_the_same_person_elsewhere(monkeypatch, at_once):
    """Frame and skeleton move together by the pixels asked for, the first view is the clip itself bit for bit, and so
    many clips are asked at once as the memory is to hold."""
    monkeypatch.setattr(averaged_views, "AT_ONCE", at_once)
    cond, asked = poses(LEFT, 3), []
    past = drawn(cond[:, :1])

    def rollout(past, cond):
        asked.append((past, cond))
        return drawn(cond)[:, 1:]

    strategy = AveragedViews(right=2, down=1)
    assert strategy.views == [(-2, 0, False), (2, 0, False), (0, -1, False), (0, 1, False), (0, 0, True)]
    strategy.roll_out(rollout, MODEL, past, cond)
    assert [len(x) for x, _ in asked] == ([18] if at_once == 24 else [6, 6, 6])
    n = len(LEFT) if at_once == 24 else 1
    x, c = asked[0]
    assert torch.equal(x[:n], past[:n]) and torch.equal(c[:n], cond[:n])
    for (right, down, mirrored), frames, lines in zip(strategy.views, x[n:].split(n), c[n:].split(n)):
        for i in range(n):
            column = W - 1 - int(LEFT[i]) if mirrored else int(LEFT[i]) + right
            first = column - 3 if mirrored else column
            people, line = ((v[i, 0].amin(0) < limit).nonzero() for v, limit in ((frames, 0.3), (lines, 0.95)))
            assert people.amin(0).tolist() == [TOP + down, first]
            assert people.amax(0).tolist() == [TOP + down + 15, first + 3]
            assert line.amin(0).tolist() == [TOP + down, column] and line.amax(0).tolist() == [TOP + down + 15, column]
            ink, wanted = 1 - lines[i, 0, :, line[0, 0], column], 1 - (YELLOW if mirrored else GREEN)
            assert torch.allclose(ink / ink.amax(), wanted / wanted.amax(), atol=1e-5), "the colour of the other side"


def test_no_view_but_the_clip_itself_is_the_rollout_itself():
    mean, plain = predicted(AveragedViews(right=0, down=0, mirrored=False), lambda column: column / W)
    assert torch.equal(mean, plain)


TINY = {
    "device": "cpu",  # z of a GPU is another one
    "data": {"kind": "dancer", "clips": 1, "frames": 24, "test_clips": 1},
    "model": {"kind": "compact", "width": 8, "pose_reach": 1},
    "n_frames": 3,
    "batch_size": 2,
    "steps": 4,
    "epochs": 2,
    "eval_every": 0,
}


def test_a_run_is_trained_as_without_and_scored_shown_and_handed_in_with_the_mean(tmp_path):
    plain, averaged = (
        l4.train(Config.from_dict(TINY | {"strategies": s}), out=tmp_path) for s in ([], ["averaged_views"])
    )
    weights = [torch.load(run.dir / "best.pt", weights_only=True)["weights"] for run in (plain, averaged)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights)))
    assert "mean of each clip as it is and of 5 views" in averaged.result["protocol"]["rollouts"]
    assert "rollouts" not in plain.result["protocol"]

    clip = load_data(averaged.config).val
    shown = l4.predict(averaged, clip.frames[0], clip.cond, device="cpu")
    score = read_score(averaged.dir / "scores.npz", {})
    dB = psnr_per_frame(shown[None, 1:], clip.frames[None, 1:].float() / 255, averaged.config.psnr)[0]
    assert np.allclose(dB, score.psnr[0], atol=1e-3)
    assert not np.allclose(dB, read_score(plain.dir / "scores.npz", {}).psnr[0], atol=1e-3)
    assert any(path.name == "submission.csv" for path in l4.test(averaged, device="cpu"))

    single = l4.evaluate(averaged, device="cpu", single=True)
    assert np.array_equal(single.psnr, read_score(plain.dir / "scores.npz", {}).psnr)
    assert "rollouts" not in single.protocol


def test_what_has_no_person_to_move_is_refused(tmp_path):
    with pytest.raises(Lab4Error, match=r"averaged_views strategy: the model LabCVAE: expected one that knows"):
        l4.train(Config.from_dict(TINY | {"model": "lab", "strategies": ["averaged_views"]}), out=tmp_path)
    with pytest.raises(Lab4Error, match=r"conditions \(7,\): expected pose images"):
        AveragedViews().roll_out(None, MODEL, torch.zeros(1, 1, 3, H, W), torch.zeros(1, 4, 7))
    for field in ("right", "down"):
        with pytest.raises(Lab4Error, match=f"averaged_views strategy: {field}"):
            AveragedViews(**{field: 9})
