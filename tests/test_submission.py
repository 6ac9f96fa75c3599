import numpy as np
import pytest
import torch

from lab4_core.errors import Lab4Error
from lab4_core.submission import kaggle_score, read_submission, write_submission

SHAPE = (3, 2, 4)


def clips(n=2, t=5):
    return list(np.random.default_rng(0).integers(0, 256, (n, t, *SHAPE), dtype=np.uint8))


def test_rows_are_channels_first_rounded_and_clipped(tmp_path):
    clip = torch.zeros(1, 3, 1, 2)
    clip[0, :, 0, 0] = torch.tensor([0.1, 0.5, 1.7])  # R, G, B of the left pixel: 25.5 and 127.5 round to even
    clip[0, :, 0, 1] = torch.tensor([1.0, -0.3, 0.999])
    path = write_submission(tmp_path / "submission.csv", [clip, clip])
    assert path.read_text().split("\n") == ["id,0,1,2,3,4,5", "0,26,255,128,0,255,255", "1,26,255,128,0,255,255", ""]


def test_what_is_written_is_read(tmp_path):
    path = write_submission(tmp_path / "s.csv", iter(clips()))
    read = read_submission(path, 5, SHAPE)
    assert len(read) == 2 and read[0].dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(read, clips()))


def test_the_labs_size_is_the_default(tmp_path):
    path = write_submission(tmp_path / "s.csv", [np.zeros((630, 3, 32, 64), np.uint8)])
    lines = path.read_text().splitlines()
    assert len(lines) == 631 and lines[0].endswith(",6143") and lines[-1].startswith("629,")
    assert read_submission(path)[0].shape == (630, 3, 32, 64)


def test_a_broken_clip_leaves_the_old_file(tmp_path):
    path = write_submission(tmp_path / "s.csv", clips())
    before = path.read_bytes()
    with pytest.raises(Lab4Error, match=r"clip 1: frames of \(3, 4, 2\)"):
        write_submission(path, [clips()[0], clips()[0].transpose(0, 1, 3, 2)])
    with pytest.raises(Lab4Error, match="no clip"):
        write_submission(path, [])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("id,0,1", "id,1,2", "column 1 of 25 is '1': expected '0'"),
        (",23\n", "\n", "column 24 of 24 is nothing: expected '23'"),
        ("\n3,", "\n4,", "row 3 has id '4': expected 3"),
        ("\n3,{}", "\n3,256", "row 3, column 0 is '256'"),
        ("\n3,{}", "\n3,-1", "row 3, column 0 is '-1'"),
        ("\n3,{}", "\n3,7.5", "row 3, column 0 is '7.5'"),
        ("\n3,{}", "\n3,", "row 3, column 0 is ''"),
        ("\n3,{},", "\n3,", "row 3 has 23 values: expected 24"),
    ],
)
def test_each_mistake_is_named(tmp_path, old, new, said):
    path = write_submission(tmp_path / "s.csv", clips())
    text = path.read_text()
    old = old.format(clips()[0][3].ravel()[0])
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Lab4Error, match=said):
        read_submission(path, 5, SHAPE)


def test_rows_that_fill_no_clip_and_files_that_are_none(tmp_path):
    path = write_submission(tmp_path / "s.csv", clips())
    with pytest.raises(Lab4Error, match="10 rows: expected a multiple of 4"):
        read_submission(path, 4, SHAPE)
    with pytest.raises(Lab4Error, match="cannot read"):
        read_submission(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\x00")
    with pytest.raises(Lab4Error, match="not plain text"):
        read_submission(tmp_path / "b.csv")


def test_kaggle_score_by_hand():
    truth = [np.zeros((630, *SHAPE), np.uint8) for _ in range(5)]
    pred = [t.copy() for t in truth]
    for k, clip in enumerate(pred):
        clip[1:601] = 10 + k  # an error of 10 + k everywhere: 20 log10(255 / (10 + k)) dB
        clip[0] = clip[601:] = 255  # frame 0 and the frames after 600 are not scored
    dbs = [20 * np.log10(255 / (10 + k)) for k in range(5)]
    score = kaggle_score(pred, truth)
    assert score["clips"] == pytest.approx(dbs)
    assert score["psnr"] == pytest.approx(np.mean(dbs)) and score["frames"] == 600
    assert score["public"] == pytest.approx(np.mean(dbs[:3])) and score["private"] == pytest.approx(np.mean(dbs[3:]))


def test_kaggle_score_is_a_mean_of_decibels_and_splits_only_five_clips():
    truth = np.zeros((3, *SHAPE), np.uint8)
    pred = truth.copy()
    pred[1], pred[2] = 1, 100
    score = kaggle_score([pred], [truth])
    assert score["psnr"] == pytest.approx(20 * np.log10(255) - 20)  # not the decibels of the mean error
    assert score["public"] is None and score["private"] is None and score["frames"] == 2
    with pytest.raises(Lab4Error, match="the same clips"):
        kaggle_score([pred], [truth, truth])
    with pytest.raises(Lab4Error, match="clip of 1 frame"):
        kaggle_score([pred[:1]], [truth[:1]])
