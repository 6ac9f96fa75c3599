"""What a killed process leaves half-written is never taken for the thing, and is cleaned away by who comes next."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_child import CONTEXT

from lab4_core.data import BairFolder, Lab4Folder, bair_folder, lab4_folder, write_bair, write_lab4
from lab4_core.data.store import Clips, TestClip, VideoData
from lab4_core.errors import Lab4Error
from lab4_core.submission import write_submission

KINDS = {"bair": (write_bair, BairFolder), "lab4": (write_lab4, Lab4Folder)}


def dataset(kind: str) -> VideoData:
    """Nine frames of noise: two clips to train on, one to validate, one to test."""
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (9, 3, 8, 16), generator=g, dtype=torch.uint8)
    cond = torch.rand(9, 7, generator=g) if kind == "bair" else frames.flip(0)
    clips = Clips(frames, cond, (0, 4))
    test = TestClip("0", frames[:2], cond[:3], frames[:3] if kind == "bair" else None)
    return VideoData(kind, clips, Clips(frames[:3], cond[:3]), (test,), "")


def killed_in_the_midst(kind: str, root: str) -> None:
    """The body of a child: dies of SIGKILL when the eighth picture is to be written."""
    real, calls = Image.Image.save, []

    def save(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *args, **kwargs)

    Image.Image.save = save
    KINDS[kind][0](dataset(kind), root)


def grow_old(path: Path) -> None:
    for place in (path, *path.rglob("*")):
        os.utime(place, (1.0, 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_whose_writer_was_killed(kind, tmp_path, own_cache):
    write, folder = KINDS[kind]
    root = tmp_path / "made" / "set.v1"
    process = CONTEXT.Process(target=killed_in_the_midst, args=(kind, str(root)))
    process.start()
    process.join(120)
    assert process.exitcode == -9
    (half,) = root.parent.iterdir()
    assert half.name.startswith(".set.") and any(half.rglob("*.png")), "half a dataset, under a hidden name"
    for near in (root, root.parent):  # it is neither the dataset nor proposed as one
        with pytest.raises(Lab4Error) as e:
            folder(root=str(near), height=8, width=16).load()
        assert half.name not in str(e.value).partition("did you mean")[2]

    write(dataset(kind), root)
    assert half.is_dir(), "it is young: somebody may be writing it"
    assert len(folder(root=str(root), height=8, width=16).load().train.frames) == 9
    grow_old(half)
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    write(dataset(kind), root)
    assert [p.name for p in root.parent.iterdir()] == [root.name]


def test_a_file_whose_writer_was_killed(tmp_path):
    """Submissions, and whatever else goes through `replacing`."""
    old, young, other = (tmp_path / name for name in (".submission.0123abcd.csv", ".submission.89abcdef.csv",
                                                      ".submission.0123abcd.txt"))  # fmt: skip
    for path in (old, young, other):
        path.write_text("id,0,1")
    grow_old(old)
    grow_old(other)
    write_submission(tmp_path / "submission.csv", [np.zeros((2, 3, 2, 2), np.uint8)])
    assert {p.name for p in tmp_path.iterdir()} == {"submission.csv", young.name, other.name}, "nothing of another name"


@pytest.mark.parametrize("kind, module", [("bair", bair_folder), ("lab4", lab4_folder)])
def test_a_file_that_vanishes_between_listing_and_reading(kind, module, tmp_path, monkeypatch, own_cache):
    write, folder = KINDS[kind]
    root, gone = write(dataset(kind), tmp_path / "set"), []
    read = module.read_png

    def vanishing(path, *args, **kwargs):
        if Path(path).name == "1.png" and not gone:
            gone.append(Path(path))
            gone[0].unlink()
        return read(path, *args, **kwargs)

    monkeypatch.setattr(module, "read_png", vanishing)
    with pytest.raises(Lab4Error) as e:
        folder(root=str(root), height=8, width=16).load()
    assert str(gone[0]) in str(e.value) and not list((tmp_path / "cache").glob("*"))
