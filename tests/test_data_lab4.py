"""The lab's folders: what is read, what is refused, what the cache notices. Small data made here; a few checks on the
real frames when LAB4_DATA names them."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lab4_core import paths
from lab4_core.config import Config
from lab4_core.data import BairFolder, Dancer, Lab4Folder, cache, load_data, write_lab4
from lab4_core.data.cuts import find_cuts, find_starts
from lab4_core.data.png import read_png
from lab4_core.errors import Lab4Error

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small dancer in the LAB4 layout, with the dataset it was written from."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(paths, "CACHE", folder / "cache")
        data = Dancer(clips=2, frames=12, test_clips=2).load()
    return write_lab4(data, folder / "set"), data


@pytest.fixture
def root(written, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(written[0], tmp_path / "set")


def frame(root, i, part="img"):
    return root / "train" / f"train_{part}" / f"{i}.png"


def test_written_and_loaded_is_the_same(written):
    root, data = written
    again = Lab4Folder(root=str(root)).load()
    for split in ("train", "val"):
        assert torch.equal(getattr(again, split).frames, getattr(data, split).frames)
        assert torch.equal(getattr(again, split).cond, getattr(data, split).cond)
    assert again.train.starts == data.train.starts == (0, 12)
    assert [c.name for c in again.test] == ["0", "1"]
    assert all(torch.equal(a.first, b.first) and torch.equal(a.cond, b.cond) for a, b in zip(again.test, data.test))
    assert again.digest == data.digest


def test_writing_never_touches_what_is_there(root, written):
    before = sorted(p.relative_to(root) for p in root.rglob("*"))
    with pytest.raises(Lab4Error, match="not empty"):
        write_lab4(written[1], root)
    assert sorted(p.relative_to(root) for p in root.rglob("*")) == before


def test_failed_writing_leaves_nothing(tmp_path, written, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(Lab4Error, match=r"new.*No space left"):
        write_lab4(written[1], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_order_is_the_number_and_prefixes_are_allowed(root):
    for part in ("img", "label"):
        for i in range(24):
            frame(root, i, part).rename(frame(root, i, part).with_name(f"frame{i}.png"))
    plain = Lab4Folder(root=str(root)).load()
    for i in (2, 10, 23):  # the alphabet would put 10 before 2
        assert np.array_equal(
            plain.train.frames[i].permute(1, 2, 0), np.asarray(Image.open(root / "train/train_img" / f"frame{i}.png"))
        )


def test_larger_pictures_are_resized_as_pil_does(tmp_path):
    root = write_lab4(Dancer(clips=1, frames=4, height=80, width=160).load(), tmp_path / "large")
    loaded = Lab4Folder(root=str(root)).load()
    expected = Image.open(frame(root, 3)).resize((64, 32), Image.Resampling.BILINEAR)
    assert Image.open(frame(root, 3)).size == (160, 80)
    assert np.array_equal(loaded.train.frames[3].permute(1, 2, 0), np.asarray(expected))


def test_a_folder_that_may_not_be_read_is_one_error(root, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(Lab4Error, match=r"Permission denied: .*train_img.*: expected folders"):
        load_data(Lab4Folder(root=str(root)))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may read everything")
def test_the_search_for_a_better_root_passes_what_may_not_be_read(root):
    (root.parent / "closed").mkdir(mode=0)
    for part in (Lab4Folder, BairFolder):
        with pytest.raises(Lab4Error, match=r"did you mean|in the LAB4 layout|it holds"):
            part(root=str(root.parent)).load()


def test_no_test_folder_is_fine_and_any_number_of_clips(root):
    shutil.rmtree(root / "test" / "test_img" / "0")
    shutil.rmtree(root / "test" / "test_label" / "0")
    assert [c.name for c in Lab4Folder(root=str(root)).load().test] == ["1"]
    shutil.rmtree(root / "test")
    assert Lab4Folder(root=str(root)).load().test == ()


# ------------------------------------------------------------------ errors


def test_wrong_root_names_the_one_that_fits(root, tmp_path):
    with pytest.raises(Lab4Error, match=r"nowhere.*does not exist"):
        Lab4Folder(root=str(tmp_path / "nowhere")).load()
    with pytest.raises(Lab4Error, match="is not a folder"):
        Lab4Folder(root=str(frame(root, 0))).load()
    for wrong in (root.parent, root / "train", root / "train" / "train_img"):
        with pytest.raises(Lab4Error, match=rf"did you mean '{root}'\?"):
            Lab4Folder(root=str(wrong)).load()
    with pytest.raises(Lab4Error, match="LAB4_DATA"):
        Lab4Folder().load()


def test_a_dataset_of_the_other_lab_is_named(root, tmp_path):
    (tmp_path / "robots" / "test" / "traj_0_to_255" / "0").mkdir(parents=True)
    with pytest.raises(Lab4Error, match=r"in the BAIR layout.*--model svg"):
        Lab4Folder(root=str(tmp_path / "robots")).load()
    with pytest.raises(Lab4Error, match=r"in the LAB4 layout.*pose models"):
        BairFolder(root=str(root)).load()


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda r: frame(r, 7, "label").unlink(), r"1 frame of .*train_img without a partner in .*train_label: 7"),
        (lambda r: [frame(r, i).unlink() for i in range(9)], r"9 frames of .*train_label without .*: 0, 1, .*9 in all"),
        (lambda r: frame(r, 7).write_bytes(b""), r"train_img/7\.png \(0 bytes\) cannot be decoded"),
        (lambda r: frame(r, 7).write_bytes(frame(r, 7).read_bytes()[:200]), r"7\.png \(200 bytes\) cannot be decoded"),
        (lambda r: frame(r, 7, "label").write_text("hello"), r"train_label/7\.png .* cannot be decoded"),
        (lambda r: Image.new("RGB", (10, 10)).save(frame(r, 7)), r"7\.png is 10 x 10: expected 64 x 32"),
        (lambda r: shutil.copy(frame(r, 7), frame(r, "frame7")), r"same number as"),
        (lambda r: shutil.copy(frame(r, 7), frame(r, "title")), r"title\.png: expected a name that ends with"),
        (lambda r: shutil.rmtree(r / "val"), r"val_img does not exist"),
        (lambda r: [p.unlink() for p in (r / "val/val_img").iterdir()], r"val_img holds no PNG"),
        (lambda r: shutil.rmtree(r / "test/test_label/1"), r"1 folder of .*test_img without a partner"),
        (lambda r: (r / "train/clips.csv").write_text("start\n0\n99\n"), r"clips\.csv.*found 0, 99"),
        (lambda r: (r / "train/clips.csv").write_text("begin\n0\n"), r"clips\.csv.*'start'"),
        (lambda r: (r / "train/clips.csv").write_text("start\n0\n7.5\n"), r"clips\.csv.*whole numbers"),
    ],
)  # fmt: skip
def test_each_mistake_gives_one_error_that_names_it(root, spoil, says):
    spoil(root)
    with pytest.raises(Lab4Error, match=says):
        Lab4Folder(root=str(root)).load()


def test_links_stay_inside(root, tmp_path):
    outside = shutil.copy(frame(root, 7), tmp_path / "secret.png")
    frame(root, 7).unlink()
    frame(root, 7).symlink_to(outside)
    with pytest.raises(Lab4Error, match=r"7\.png is a link to .*secret"):
        Lab4Folder(root=str(root)).load()
    frame(root, 7).unlink()
    frame(root, 7).symlink_to(frame(root, 6))
    assert len(Lab4Folder(root=str(root)).load().train.frames) == 24


def test_a_bomb_is_refused_before_it_unpacks(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(Lab4Error, match=r"bomb\.png has 9000 x 9000 pixels"):
        read_png(str(tmp_path / "bomb.png"), 32, 64)


@pytest.mark.parametrize(
    "picture, expected",
    [
        (Image.new("P", (4, 4), 0), (0, 0, 0)),
        (Image.new("L", (4, 4), 90), (90, 90, 90)),
        (Image.fromarray(np.full((4, 4), 90 * 256 + 200, np.uint16)), (90, 90, 90)),
        (Image.new("RGBA", (4, 4), (200, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (200, 10, 20, 255)), (200, 10, 20)),
    ],
)
def test_every_kind_of_png_becomes_rgb(tmp_path, picture, expected):
    picture.save(tmp_path / "0.png")
    assert (read_png(str(tmp_path / "0.png"), 2, 2) == expected).all()


# ------------------------------------------------------------------ cache


def test_cache_is_used_and_notices_changes(root, monkeypatch):
    part, calls = Lab4Folder(root=str(root)), []
    decode = Lab4Folder.decode
    monkeypatch.setattr(Lab4Folder, "decode", lambda self, files: calls.append(1) or decode(self, files))
    first = part.load()
    assert part.load().digest == first.digest and len(calls) == 1
    Image.new("RGB", (64, 32), (1, 2, 3)).save(frame(root, 7))
    changed = part.load()
    assert len(calls) == 2 and changed.digest != first.digest
    assert changed.train.frames[7].flatten(1).tolist() == [[v] * 2048 for v in (1, 2, 3)]
    for piece in ("img", "label"):
        frame(root, 23, piece).unlink()
    assert len(part.load().train.frames) == 23
    (root / "train/clips.csv").write_text("start\n0\n5\n")
    assert part.load().train.starts == (0, 5)
    assert len(list(paths.CACHE.iterdir())) == 1, "one dataset, one file"


def test_damaged_cache_is_made_again(root):
    part = Lab4Folder(root=str(root))
    digest = part.load().digest
    (file,) = paths.CACHE.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:5000] + b"\xff" * 5000 + whole[10000:]):
        file.write_bytes(damaged)
        assert part.load().digest == digest
        assert file.stat().st_size == len(whole), "and is whole again"


def test_cache_that_cannot_be_written_is_done_without(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "file" / "cache")
    assert len(Lab4Folder(root=str(root)).load().train.frames) == 24
    assert "not cached" in capsys.readouterr().err


def test_load_data_decodes_once_a_process(root, monkeypatch):
    part = Lab4Folder(root=str(root))
    assert load_data(part) is load_data(Lab4Folder(root=str(root)))


def test_a_training_clip_can_be_held_out(root):
    data = {"kind": "lab4", "root": str(root)}
    whole, less = (load_data(Config.from_dict({"data": data, "hold_out": clip})) for clip in (None, 0))
    (a, b), (_, end) = whole.train.spans
    assert torch.equal(less.val.frames, whole.train.frames[a:b]) and torch.equal(less.val.cond, whole.train.cond[a:b])
    assert torch.equal(less.train.frames, whole.train.frames[b:end]) and less.train.starts == (0,)
    assert less.digest == whole.digest, "the configuration tells them apart"
    with pytest.raises(Lab4Error, match=r"hold_out = 2: .* has 2 training clips .* from 0 to 1"):
        load_data(Config.from_dict({"data": data, "hold_out": 2}))


def test_data_says_its_sizes_and_not_its_pixels(written):
    data = written[1]
    assert repr(data.train) == "Clips(clips=2, frames=(24, 3, 32, 64), cond=(24, 3, 32, 64))"
    assert repr(data.test[0]) == "TestClip('0', first=(1, 3, 32, 64), cond=(12, 3, 32, 64))"
    assert "tensor" not in repr(data)


def test_digest_is_of_the_content():
    a = {"train/frames": np.zeros((2, 3, 4, 4), np.uint8), "train/starts": np.array([0])}
    assert cache.digest(a) == cache.digest({**a, "truth/0": np.ones(3)})
    assert cache.digest(a) != cache.digest({**a, "train/starts": np.array([1])})
    assert cache.digest(a) != cache.digest({**a, "train/frames": np.zeros((2, 3, 2, 8), np.uint8)})


# ------------------------------------------------------------------ cuts


def moving(n, seed):
    """A bar that moves over a noisy ground, faster and slower."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(100 + 15 * seed, 1, (n, 3, 16, 32))
    for t in range(n):
        x = int(14 + 12 * np.sin(t / 6 + seed))
        frames[t, :, 4:, x : x + 4] += 30
    return frames.clip(0, 255).astype(np.uint8)


def test_cuts_are_found_and_motion_is_none():
    one = moving(120, 0)
    assert find_cuts(one) == []
    assert find_cuts(np.concatenate([one[:50], moving(40, 3), one[:30]])) == [50, 90]
    assert find_cuts(one[:1]) == []


def test_starts_from_cuts_gaps_and_equal_clips():
    three = np.concatenate([moving(40, 0), moving(80, 3)])  # the middle cut of three clips is invisible
    numbers = np.arange(120)
    assert find_starts(three, numbers, usual=40) == (0, 40, 80)
    assert find_starts(three, numbers, usual=60) == (0, 40), "cuts that fit no row of equal clips stand alone"
    assert find_starts(moving(80, 0), np.arange(80), usual=40) == (0,), "no cut says nothing about equal clips"
    numbers = 2 * np.arange(120) + (np.arange(120) >= 70)
    assert find_starts(three, numbers, usual=50) == (0, 40, 70), "files are missing before the 70th"


def test_clip_length_and_no_sidecar(root):
    assert Lab4Folder(root=str(root), clip_length=10).load().train.starts == (0, 10, 20)
    (root / "train" / "clips.csv").unlink()
    assert Lab4Folder(root=str(root)).load().train.starts == (0, 12)


def test_real_frames(real_data):
    data = Lab4Folder(root=str(real_data)).load()
    assert data.train.frames.shape[1:] == data.val.cond.shape[1:] == (3, 32, 64)
    assert len(data.train.frames) == len(data.train.cond) and len(data.val.frames) == 630
    assert all(len(c.cond) == 630 and len(c.first) == 1 for c in data.test)
    if len(data.train.frames) == 2520:
        assert data.train.starts == (0, 630, 1260, 1890)
