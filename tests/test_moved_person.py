"""The empty scene, and the person who is cut out of it and put back elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lab4_core.batches import make_batch
from lab4_core.clock import Clock
from lab4_core.config import Config
from lab4_core.data import Clips
from lab4_core.data.scene import empty_scene
from lab4_core.errors import Lab4Error
from lab4_core.strategies import MovedPerson, moved_person
from lab4_core.strategies.moved_person import LEFT, MIDDLE, RIGHT, other_side

H, W = 32, 64


def studio(frames: int = 40, seed: int = 0) -> tuple[Clips, torch.Tensor]:
    """A block of body (8 x 4) with a thin skeleton that walks about in a studio with a gradient, and the studio."""
    rng = torch.Generator().manual_seed(seed)
    scene = 120 + 100 * torch.rand(3, 1, 1, generator=rng) + torch.linspace(-60, 0, W)
    scene = scene.expand(3, H, W).round()
    x = scene.repeat(frames, 1, 1, 1)
    pose = torch.full((frames, 3, H, W), 255.0)
    for t in range(frames):
        left = int(torch.randint(12, W - 16, (), generator=rng))
        x[t, :, 12:20, left : left + 4] = torch.tensor([20.0, 30.0, 40.0]).view(3, 1, 1)
        pose[t, :, 12:20, left] = torch.tensor(RIGHT[2]).view(3, 1).float()
        pose[t, :, 12:20, left + 3] = torch.tensor(LEFT[2]).view(3, 1).float()
    return Clips(x.byte(), pose.byte()), scene / 255


def test_the_empty_scene_is_what_nobody_hides():
    clips, scene = studio()
    assert torch.allclose(empty_scene(clips.frames, clips.cond), scene, atol=1e-6)
    assert clips.scene is clips.scene, "computed once"


def test_a_person_who_never_moves_is_part_of_the_scene_and_so_is_everything_without_pose_images():
    clips, _ = studio()
    still = clips.frames[:1].repeat(9, 1, 1, 1)
    assert torch.equal(empty_scene(still, clips.cond[:1].repeat(9, 1, 1, 1)), still[0] / 255)
    assert torch.equal(empty_scene(still, torch.zeros(9, 7)), still[0] / 255)


def test_the_shade_beside_a_person_is_no_part_of_the_empty_scene():
    """A person darkens the room far beyond the body: a plain median of what is not covered would keep half of it."""
    clips, scene = studio(400)
    body_at = (clips.cond.amin((1, 2)) < 200).float().argmax(1)
    away = (torch.arange(W) - body_at[:, None]).abs()
    shaded = (clips.frames.float() - (14 - away).clamp(min=0)[:, None, None]).clamp(0, 255).byte()
    assert torch.allclose(empty_scene(shaded, clips.cond), scene, atol=1e-6)


def test_poses_of_several_frames_move_with_the_person():
    clips, _ = studio()
    x, c = (v[:24].float().div(255).unflatten(0, (12, 2)) for v in (clips.frames, clips.cond))
    alone, wide = (
        MovedPerson(share=1.0).augment(x, cond, clips, 0.0, torch.Generator().manual_seed(1))
        for cond in (c, torch.cat([c, c.flip(1)], 2))
    )
    assert torch.equal(wide[0], alone[0]) and torch.equal(wide[1][:, :, :3], alone[1])
    assert torch.equal(wide[1][:, :, 3:], alone[1].flip(1))


def body(frame: torch.Tensor) -> set[tuple[int, int]]:
    return {tuple(p) for p in (frame.amax(0) < 0.25).nonzero().tolist()}


def skeleton(pose: torch.Tensor) -> set[tuple[int, int]]:
    return {tuple(p) for p in (pose.amin(0) < 0.9).nonzero().tolist()}


def test_person_and_skeleton_move_together_and_the_scene_stays():
    clips, scene = studio()
    x, c = (v[:24].float().div(255).unflatten(0, (12, 2)) for v in (clips.frames, clips.cond))
    new, pose = MovedPerson(share=1.0, right=0.1).augment(x, c, clips, 0.0, torch.Generator().manual_seed(1))
    moved, mirrored = 0, 0
    for i in range(12):
        for t in range(2):
            people, bones = body(new[i, t]), skeleton(pose[i, t])
            assert bones <= people, "the skeleton lies in the body"
            outside = torch.ones(H, W, dtype=torch.bool)
            for y, column in people:
                outside[y, column] = False
            assert torch.allclose(new[i, t][:, outside], scene[:, outside], atol=1e-6)
        before, after = ([min(c for _, c in body(v[i, t])) for t in range(2)] for v in (x, new))
        assert abs(after[1] - after[0]) == abs(before[1] - before[0]), "the frames of a clip move alike"
        moved += after != before
        mirrored += after[1] - after[0] == before[0] - before[1]
    assert moved >= 10 and 2 <= mirrored <= 10


def test_scaled_light_fits_the_new_place_and_added_light_brings_the_old_one_along():
    """A person with soft edges and a shadow on the right, drawn at two places of a room that is darker on the left, in
    frames a little darker than the room: the one moved is like the one drawn there."""
    room = torch.linspace(0.4, 0.9, W).expand(3, H, W).contiguous()

    def drawn(left: int) -> torch.Tensor:
        cover, shade = torch.zeros(H, W), torch.ones(H, W)
        cover[8:24, left : left + 4] = 1
        cover[8:24, [left - 1, left + 4]] = 0.5
        shade[18:24, left + 5 : left + 9] = 0.9
        return cover * 0.05 + (1 - cover) * 0.98 * shade * room

    x = drawn(40).repeat(64, 1, 1, 1, 1)
    scaled, added = (
        MovedPerson(share=1.0, right=0.4, down=0.0, light=light).augment(
            x, torch.ones_like(x), SimpleNamespace(scene=room), 0.0, torch.Generator().manual_seed(0)
        )[0][:, 0]
        for light in ("scaled", "added")
    )
    errors = []
    for new, old in zip(scaled, added):
        left = min((c for _, c in body(new)), default=W)
        if 0 < left < 28 and new[0, 20, left + 6] < 0.92 * room[0, 20, left + 6]:  # far away, and not mirrored
            errors.append([float((x - drawn(left)).abs().max()) for x in (new, old)])
    assert len(errors) > 3
    for fits, brought in errors:
        assert fits < 0.06 and brought > 2 * fits


@pytest.mark.parametrize("light", ["scaled", "added"])
def test_only_the_chosen_clips_are_worked_on_and_they_come_out_as_if_all_were(monkeypatch, light):
    """A GPU computes all of them and chooses then; so the same draws give the same batch, bit for bit."""
    clips, _ = studio()
    x, c = (v[:24].float().div(255).unflatten(0, (12, 2)) for v in (clips.frames, clips.cond))
    for share in (0.0, 0.5, 1.0):
        strategy = MovedPerson(share=share, light=light)

        def made(strategy=strategy):
            return strategy.augment(x, c, clips, 0.0, torch.Generator().manual_seed(3))

        with monkeypatch.context() as as_on_a_gpu:
            as_on_a_gpu.setattr(moved_person, "which", lambda chosen: slice(None))
            all_ = made()
        some = made()
        assert all(torch.equal(a, b) for a, b in zip(some, all_))
        changed = [not torch.equal(a, b) for a, b in zip(some[0], x)]
        assert share * 4 <= sum(changed) <= share * 24, "those not chosen stay as they are"


def test_a_mirrored_skeleton_has_the_colours_of_the_other_side():
    for colours, others in ((LEFT, RIGHT), (RIGHT, LEFT), (MIDDLE, MIDDLE)):
        for ink in (1.0, 0.4):  # a thin line covers a part of its pixel
            line, wanted = (1 - ink * (1 - torch.tensor(c).float() / 255) for c in (colours, others))
            got = other_side(line.T.reshape(1, 3, 1, -1))[0, :, 0].T
            strength = (1 - line).amax(1) / (1 - wanted).amax(1)
            assert torch.allclose(1 - got, (1 - wanted) * strength[:, None], atol=1e-5)
    white = torch.ones(1, 3, 2, 2)
    assert torch.equal(other_side(white), white)


def test_mirroring_twice_changes_nothing_of_the_places():
    clips, _ = studio()
    c = clips.cond[:4].float() / 255
    assert torch.allclose(other_side(other_side(c)), c, atol=1e-5)


@pytest.mark.parametrize(("columns", "sign"), [(slice(0, 6), -1), (slice(W - 6, W), 1)])
def test_a_person_cut_off_by_an_edge_moves_only_towards_it(columns, sign):
    clips, scene = studio()
    x = scene.repeat(64, 1, 1, 1, 1)
    x[..., 12:20, columns] = 0.1
    new, _ = MovedPerson(share=1.0, down=0.0).augment(
        x, torch.ones_like(x), clips, 0.0, torch.Generator().manual_seed(0)
    )
    for frame in new[:, 0]:
        where = {c for _, c in body(frame)}
        at_left, at_right = 0 in where or not where, W - 1 in where or not where
        assert at_left or at_right, f"a person cut off at {columns} and moved by {sign} away from every edge"
        assert len(where) <= 6


def test_a_share_of_the_clips_stays_as_it_is_and_other_conditions_are_refused():
    clips, _ = studio()
    x, c = (v[:40].float().div(255)[:, None] for v in (clips.frames, clips.cond))
    for share, low, high in ((0.0, 0, 0), (0.5, 10, 30), (1.0, 35, 40)):
        new, _ = MovedPerson(share=share).augment(x, c, clips, 0.0, torch.Generator().manual_seed(0))
        assert low <= int((new != x).flatten(1).any(1).sum()) <= high
    with pytest.raises(Lab4Error, match=r"moved_person strategy: conditions \(7,\): expected pose images"):
        MovedPerson().augment(x, torch.zeros(40, 1, 7), clips, 0.0, torch.Generator())


def test_a_distant_start_replaces_the_first_frame_and_may_leave_it_as_the_reference():
    clips, _ = studio(frames=60)
    cfg = Config.from_dict(
        {"model": {"kind": "compact", "width": 8}, "batch_size": 16, "n_frames": 3, "windows": "random"}
    )
    at = Clock(cfg, clips.spans).at(0, 0.0)
    plain = make_batch(cfg, clips, at, 0, True)
    for share, near in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)):
        part = {"kind": "distant_start", "share": share, "near": near}
        batch = make_batch(cfg.replace(strategies=[part]), clips, at, 0, True)
        assert torch.equal(batch.frames[:, 1:], plain.frames[:, 1:]), "the targets stay"
        same = (batch.frames[:, 0] == plain.frames[:, 0]).flatten(1).all(1)
        assert int(same.sum()) == (16 if share == 0 else pytest.approx(0, abs=4))
        wanted = (plain.frames[:, 0], plain.cond[:, 0]) if near else plain.reference
        assert all(torch.equal(a, b) for a, b in zip(batch.reference, wanted))
