"""The robot twin: deterministic, mechanics that hold, pictures that show the state, and actions that matter."""

import numpy as np
import pytest
import torch

from lab4_core import paths
from lab4_core.data import BairFolder, Robot, write_bair
from lab4_core.data.robot_render import LOOKS, project, render
from lab4_core.data.robot_world import DOWN, FINGERS, FOLLOW, REACH, TABLE, Scene, new_scene, push, simulate, wander
from lab4_core.errors import Lab4Error

TINY = {"clips": 2, "val_clips": 1, "test_clips": 1, "frames": 6}

pytestmark = pytest.mark.usefixtures("own_cache")


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean((1, 2, 3)))


def test_same_parameters_same_bytes_and_more_clips_leave_the_others():
    small = Robot(**TINY)
    a = small.load()
    for file in paths.CACHE.iterdir():
        file.unlink()
    assert small.load().digest == a.digest
    assert Robot(**{**TINY, "seed": 1}).load().digest != a.digest
    more = Robot(**{**TINY, "clips": 3}).load()
    assert torch.equal(more.train.frames[:12], a.train.frames) and torch.equal(more.val.frames, a.val.frames)
    assert more.train.starts == (0, 6, 12) and more.train.cond.shape == (18, 7)
    assert torch.equal(a.test[0].truth[:2], a.test[0].first) and a.test[0].cond.shape == (6, 7)


def test_the_arm_does_what_the_actions_say():
    rng = np.random.default_rng(0)
    scene = new_scene(rng, len(LOOKS))
    motion = simulate(scene, wander(scene, 60, rng))
    wanted = motion.effector[:-1, :2] + FOLLOW * motion.actions[:-1, :2]
    assert np.allclose(motion.effector[1:, :2], np.clip(wanted, *REACH))
    lifted = motion.actions[:-1, 3] > 0
    assert (np.diff(motion.effector[:, 2])[lifted] > 0).all() and lifted.any()
    assert motion.effector[:, 2].min() >= DOWN - 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_nothing_overlaps_and_nothing_falls_off(seed):
    rng = np.random.default_rng(seed)
    scene = new_scene(rng, len(LOOKS))
    motion = simulate(scene, wander(scene, 30, rng))
    for t, objects in enumerate(motion.objects):
        assert (objects >= TABLE[0] + scene.radii[:, None] - 1e-9).all()
        assert (objects <= TABLE[1] - scene.radii[:, None] + 1e-9).all()
        apart = np.hypot(*(objects[:, None] - objects[None]).T)
        overlap = scene.radii[:, None] + scene.radii - apart
        np.fill_diagonal(overlap, 0)
        assert overlap.max() < 0.016, f"frame {t}: what is wedged in a corner may give way, not more"


def test_an_object_moves_only_when_the_hand_meets_it_and_ahead_of_it():
    scene = Scene(
        np.array([0.5, -0.1, DOWN]), np.array([[0.5, 0.0], [0.65, 0.15]]), np.array([0.02, 0.02]), np.arange(2)
    )
    right = np.tile([0.0, 0.04, 0, 0], (12, 1))
    motion = simulate(scene, right)
    reached = int(np.argmax(motion.effector[:, 1] > -0.02 - FINGERS))
    assert np.allclose(motion.objects[:reached, 0], scene.objects[0]) and reached > 1
    assert motion.objects[-1, 0, 1] > 0.1 and abs(motion.objects[-1, 0, 0] - 0.5) < 1e-6, "pushed straight ahead"
    assert np.allclose(motion.objects[:, 1], scene.objects[1]), "the other one is left alone"
    lifted = np.tile([0.0, 0.04, 0, 2.0], (12, 1))
    high = Scene(np.array([0.5, -0.1, 0.26]), *(getattr(scene, k) for k in ("objects", "radii", "looks")))
    assert np.allclose(simulate(high, lifted).objects, scene.objects), "a lifted hand passes above"


def test_a_pushed_object_pushes_the_next():
    objects = push(np.array([0.5, 0.0]), True, np.array([[0.5, 0.03], [0.5, 0.065]]), np.array([0.02, 0.02]))
    assert objects[0, 1] > 0.03 and objects[1, 1] > 0.065


@pytest.mark.parametrize("height, width", [(64, 64), (48, 96)])
def test_the_picture_shows_the_hand_where_the_state_says(height, width):
    for y in (-0.1, 0.1):
        scene = Scene(np.array([0.6, y, DOWN]), np.array([[0.45, 0.0]]), np.array([0.02]), np.arange(1))
        gone = Scene(np.array([0.6, y + 50, DOWN]), *(getattr(scene, k) for k in ("objects", "radii", "looks")))
        a, b = (
            render(s, simulate(s, np.zeros((1, 4))), height, width, np.random.default_rng(1))[0] for s in (scene, gone)
        )
        changed = np.abs(a.astype(int) - b).max(0) > 60
        rows, cols = np.where(changed)
        px, py, _ = project([0.6, y, 0.0], height, width)
        assert abs(cols[rows > py - 0.1 * height].mean() - px) < 0.03 * width
        assert abs(rows.max() - py) < 0.06 * height and rows.min() == 0, "from above down to the table"


def test_other_actions_show_another_future_and_its_own_actions_the_same():
    robot = Robot(frames=12)
    frames, cond = robot.clip("val", 0)
    again, _ = robot.clip("val", 0, actions=cond[:, :4])
    assert np.array_equal(frames, again)
    other = cond[:, :4].copy()
    other[3:, :2] *= -1
    elsewhere, state = robot.clip("val", 0, actions=other)
    assert np.array_equal(elsewhere[:4], frames[:4]), "an action acts on the frame after it"
    assert not np.array_equal(elsewhere[4], frames[4]) and (state[4, 4:6] != cond[4, 4:6]).any()
    with pytest.raises(Lab4Error, match=r"shape \(3, 4\)"):
        robot.clip("val", 0, actions=other[:3])


def test_baselines_are_no_easier_than_those_of_the_real_clip():
    # the real sample: repeating frame 1 gives 24.0 dB over frames 2..11, copying the true previous frame 28.9
    repeat, copy = [], []
    for i in range(4):
        frames, _ = Robot(frames=12).clip("train", i)
        repeat.append(psnr(frames[2:], frames[1:2]).mean())
        copy.append(psnr(frames[2:], frames[1:-1]).mean())
    assert 15 < np.mean(repeat) < 24 and 18 < np.mean(copy) < 29 and np.mean(copy) > np.mean(repeat) + 1


def test_written_and_read_it_is_the_same(tmp_path):
    data = Robot(**TINY).load()
    root = write_bair(data, tmp_path / "new")
    read = BairFolder(root=str(root)).load()
    for a, b in ((data.train, read.train), (data.val, read.val)):
        assert torch.equal(a.frames, b.frames) and torch.equal(a.cond, b.cond) and a.starts == b.starts
    assert torch.equal(data.test[0].truth, read.test[0].truth) and torch.equal(data.test[0].cond, read.test[0].cond)
    with pytest.raises(Lab4Error, match="not empty"):
        write_bair(data, root)


@pytest.mark.parametrize("field, value", [("clips", 0), ("val_clips", 0), ("frames", 2), ("height", 4), ("seed", -1)])
def test_impossible_parameters(field, value):
    with pytest.raises(Lab4Error, match=rf"{field} = {value}"):
        Robot(**{field: value})
