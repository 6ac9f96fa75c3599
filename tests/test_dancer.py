"""The synthetic dancer: deterministic, as hard as the real clips, and a body that obeys its skeleton."""

import numpy as np
import pytest
import torch

from lab4_core import paths
from lab4_core.data import Dancer
from lab4_core.data.dancer_motion import ACROSS, CALM, ON_THE_SPOT, REST, Choreography, choreograph
from lab4_core.data.dancer_render import Canvas, poses, project, render
from lab4_core.data.dancer_skeleton import FOREARM, SHIN, THIGH, UPPER_ARM, skeleton
from lab4_core.errors import Lab4Error

pytestmark = pytest.mark.usefixtures("own_cache")


def standing(frames=1, **angles):
    """Joints of a still pose."""
    return skeleton({k: np.full(frames, float({**REST, **angles}[k])) for k in REST})


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean((1, 2, 3)))


def test_same_parameters_same_bytes_and_seeds_differ():
    small = Dancer(clips=1, frames=6, test_clips=1)
    a = small.load()
    for file in paths.CACHE.iterdir():
        file.unlink()
    assert small.load().digest == a.digest
    assert Dancer(clips=1, frames=6, test_clips=1, seed=1).load().digest != a.digest


def test_more_clips_leave_the_others_as_they_are():
    one, two = Dancer(clips=1, frames=5, test_clips=1).load(), Dancer(clips=2, frames=5, test_clips=0).load()
    assert torch.equal(two.train.frames[:5], one.train.frames) and torch.equal(two.val.frames, one.val.frames)
    assert not torch.equal(two.train.frames[5:], one.train.frames)
    assert two.train.starts == (0, 5) and two.test == ()


def test_truth_of_the_test_clips_begins_with_what_is_given():
    dancer = Dancer(clips=1, frames=7, test_clips=2, height=24, width=24)
    data, truth = dancer.load(), dancer.test_truth()
    assert [t.shape for t in truth] == [(7, 3, 24, 24)] * 2
    assert all(torch.equal(clip.first, t[:1]) and len(clip.cond) == 7 for clip, t in zip(data.test, truth))


def test_baselines_lie_in_the_range_of_the_real_clips():
    # real: repeating the first frame 15..23 dB, copying the true previous frame 38..44 dB
    dancer = Dancer(frames=300)
    for split, low, high in (("train", 15, 24), ("val", 19, 27)):
        frames, _ = dancer.clip(split, 0)
        assert low < psnr(frames[1:], frames[:1]).mean() < high
        assert 36 < psnr(frames[1:], frames[:-1]).mean() < 44


def test_motion_is_smooth_and_varied():
    a = choreograph(630, np.random.default_rng(5))
    assert all(len(v) == 630 and np.isfinite(v).all() for v in a.values())
    joints = skeleton(a)
    speed = max(np.linalg.norm(np.diff(xyz, axis=0), axis=1).max() for xyz in joints.values())
    assert speed < 0.35, "metres a frame: nobody jumps"
    assert np.ptp(a["yaw"]) > 150 and np.ptp(a["x"]) > 1.5 and np.ptp(joints["hips"][:, 1]) > 0.3


@pytest.mark.parametrize("action", sorted({*ON_THE_SPOT, *ACROSS, *CALM[1]}, key=lambda f: f.__name__))
def test_every_action_changes_the_pose_and_ends_upright(action):
    c = Choreography({})
    action(c, np.random.default_rng(0))
    assert c.length > 10 and any(key != c.keys[0] for key in c.keys)
    assert {k: v for k, v in c.state.items() if k.endswith(("hip", "knee"))} == pytest.approx(
        {k: v for k, v in REST.items() if k.endswith(("hip", "knee"))}
    )


def test_skeleton_keeps_its_bones_and_stands_on_the_floor():
    joints = skeleton(choreograph(200, np.random.default_rng(1)))
    for s in "lr":
        for a, b, length in (("hip", "knee", THIGH), ("knee", "ankle", SHIN),
                             ("shoulder", "elbow", UPPER_ARM), ("elbow", "wrist", FOREARM)):  # fmt: skip
            assert np.allclose(np.linalg.norm(joints[f"{s}_{a}"] - joints[f"{s}_{b}"], axis=1), length)
    lowest = np.min([joints[f"{s}_{j}"][:, 1] for s in "lr" for j in ("ankle", "toe", "knee")], 0)
    assert lowest.min() > -0.05 and lowest.max() < 0.12


def test_left_is_left_and_forward_is_forward():
    front, right = standing(yaw=0), standing(yaw=90)
    assert front["l_hip"][0, 0] > front["r_hip"][0, 0], "facing us, their left is at our right"
    assert front["nose"][0, 2] < front["head"][0, 2], "and the nose comes nearer"
    assert right["nose"][0, 0] > right["head"][0, 0] and right["r_hip"][0, 2] < right["l_hip"][0, 2]
    raised = standing(l_arm=90, l_elbow=0)
    assert raised["l_wrist"][0, 2] < raised["l_shoulder"][0, 2] - 0.4
    bent = standing(l_knee=90)
    assert bent["l_ankle"][0, 2] > bent["l_knee"][0, 2] + 0.3, "a knee bends backwards"


@pytest.mark.parametrize("height, width", [(32, 64), (48, 48), (64, 128)])
def test_person_is_where_the_skeleton_is(height, width):
    joints = standing()
    rng = np.random.default_rng(0)
    frame = render(joints, height, width, rng)[0].astype(int)
    empty = render({k: v + np.array([50, 0, 0]) for k, v in joints.items()}, height, width, rng)[0].astype(int)
    changed = np.abs(frame - empty).max(0) > 40
    rows, cols = np.where(changed)
    assert 0.55 < np.ptp(rows) / height < 0.85 and abs(cols.mean() - width / 2) < 0.03 * width
    x, y, _ = project(joints["neck"] - np.array([0, 0.1, 0]), height, width)[0]
    red, _, blue = frame[:, int(y), int(x)]
    assert blue > red + 10 and blue < 140, "a blue-grey shirt"


def test_pose_image_is_thin_colour_on_white():
    image = poses(standing(), 32, 64)[0].transpose(1, 2, 0).astype(int)
    ink = (255 - image).max(-1)
    assert 0.01 < (ink > 15).mean() < 0.08 and (ink[:, :20] == 0).all()
    legs = image[21:26]
    ours_left, ours_right = legs[:, :32].reshape(-1, 3).min(0), legs[:, 32:].reshape(-1, 3).min(0)
    assert ours_left[1] > ours_left[0] and ours_right[0] > ours_right[1], "their right leg green, their left one red"


def test_bones_that_leave_the_picture_are_not_drawn():
    far, near = standing(z=5.0), standing(z=1.6)
    assert project(near["head"], 32, 64)[0, 1] < 0, "close to the camera the head is outside"
    ink = [255 - poses(j, 32, 64)[0].astype(int) for j in (far, near)]
    assert (ink[0][1] > ink[0][2] + 30).any(), "pink of the head"
    assert not (ink[1][1] > ink[1][2] + 60).any()
    assert not (255 - poses(standing(x=4.0), 32, 64)).any()


def test_near_limbs_cover_far_ones():
    canvas = Canvas(20, 20)
    canvas.capsule((10, 4), (10, 16), 3, 3, (200, 0, 0), flat=True)
    canvas.capsule((4, 10), (16, 10), 3, 3, (0, 200, 0), flat=True)
    colour, cover = canvas.pooled()
    assert colour[10, 10].tolist() == pytest.approx([0, 200, 0]) and colour[4, 10, 0] == pytest.approx(200)
    area = 2 * (12 * 6 + np.pi * 9) - 6 * 6  # two capsules, their crossing once
    assert cover.sum() == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("field, value", [("clips", 0), ("frames", 1), ("test_clips", -1), ("height", 4), ("seed", -1)])
def test_impossible_parameters(field, value):
    with pytest.raises(Lab4Error, match=rf"{field} = {value}"):
        Dancer(**{field: value})
