"""The seven mistakes of a beginner, as typed: one line that names the thing, what was found and what was expected."""

import errno

import numpy as np
import pytest
import torch
from PIL import Image

from lab4_core import cli
from lab4_core.config import Config
from lab4_core.data import Dancer, write_lab4


@pytest.fixture
def root(tmp_path):
    return write_lab4(Dancer(clips=1, frames=12, test_clips=1).load(), tmp_path / "LAB4_Dataset")


TRAIN = ["train", "--profile", "smoke", "--set", "steps=2", "--set", "eval_frames=6", "--set", "model.width=8"]


def error_of(capsys, *line) -> str:
    code = cli.main([str(word) for word in line])
    err = capsys.readouterr().err
    errors = [text for text in err.splitlines() if text.startswith("lab4: error: ")]
    assert code == 2 and len(errors) == 1 and "Traceback" not in err, err
    return errors[0]


def train(capsys, root, tmp_path, *more) -> str:
    return error_of(capsys, *TRAIN, "--data", root, "--out", tmp_path / "runs", *more)


def test_wrong_root(capsys, root, tmp_path):
    assert "no_such_folder" in train(capsys, tmp_path / "no_such_folder", tmp_path)
    said = train(capsys, root.parent, tmp_path)
    assert "train/train_img" in said and str(root) in said, "one level too high: it says which folder fits"


def test_missing_label(capsys, root, tmp_path):
    (root / "train" / "train_label" / "7.png").unlink()
    said = train(capsys, root, tmp_path)
    assert "train_label" in said and "7" in said


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n and then nothing"])
def test_broken_png(capsys, root, tmp_path, content):
    (root / "train" / "train_img" / "3.png").write_bytes(content)
    assert "3.png" in train(capsys, root, tmp_path)


def test_frames_of_another_size_are_resized(capsys, root, tmp_path):
    """Not a mistake: the lab's PNGs may be larger."""
    for folder in ("val/val_img", "val/val_label"):
        for path in (root / folder).iterdir():
            Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(path)
    assert cli.main([*TRAIN, "--data", str(root), "--out", str(tmp_path / "runs")]) == 0


def test_unknown_parameter(capsys, root, tmp_path):
    assert "did you mean 'batch_size'" in train(capsys, root, tmp_path, "--set", "batchsize=4")


def test_impossible_value(capsys, root, tmp_path):
    assert "batch_size = -1: expected 1 or more" in train(capsys, root, tmp_path, "--batch-size", "-1")


def test_checkpoint_of_another_model(capsys, root, tmp_path):
    small = Config.from_dict({"model": {"kind": "lab", "f_dim": 8, "l_dim": 4, "n_dim": 4, "d_dim": 8}}).model
    torch.save({"state_dict": small.build((3, 32, 64), (3, 32, 64)).state_dict()}, tmp_path / "other.ckpt")
    said = error_of(capsys, "test", "--data", root, "--out", tmp_path / "out", "--ckpt", tmp_path / "other.ckpt")
    assert "a checkpoint of another model" in said and "other.ckpt" in said
    assert not (tmp_path / "out").exists(), "nothing is half-written"


def test_no_space_left(capsys, root, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert "No space left on device; expected a folder" in train(capsys, root, tmp_path)
