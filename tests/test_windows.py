"""Windows: the lab's fixed ones, random ones, and never across a cut."""

import numpy as np
import pytest
import torch

from lab4_core.data.store import Clips
from lab4_core.data.windows import Windows, gather
from lab4_core.errors import Lab4Error


def clips(*lengths):
    n = sum(lengths)
    frames = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 2, 4).contiguous()
    starts = tuple(int(s) for s in np.cumsum((0, *lengths[:-1])))
    return Clips(frames, 255 - frames, starts)


def a_pass(windows, index=0):
    return np.concatenate([windows.starts(index, i) for i in range(windows.batches_per_pass)])


def test_fixed_is_the_lab():
    w = Windows(spans=clips(100).spans, n_frames=16, batch_size=4)
    assert a_pass(w).tolist() == [0, 16, 32, 48, 64, 80], "100 // 16 windows, the rest of the frames unused"
    assert w.batches_per_pass == 2 and len(w.starts(0, 1)) == 2, "the smaller last batch is kept"
    assert a_pass(w, 5).tolist() == a_pass(w).tolist()


def test_fixed_begins_again_at_every_cut():
    w = Windows(spans=clips(20, 5, 17).spans, n_frames=8, batch_size=2)
    assert a_pass(w).tolist() == [0, 8, 25, 33]


def test_shuffle_is_a_new_order_of_the_same_windows():
    kwargs = {"spans": clips(200).spans, "n_frames": 10, "batch_size": 3, "shuffle": True}
    w = Windows(seed=1, **kwargs)
    first, second = a_pass(w, 0), a_pass(w, 1)
    assert sorted(first) == sorted(second) == list(range(0, 200, 10))
    assert first.tolist() != second.tolist() and first.tolist() != sorted(first)
    assert first.tolist() == a_pass(Windows(seed=1, **kwargs), 0).tolist(), "a function of seed and pass alone"
    assert first.tolist() != a_pass(Windows(seed=2, **kwargs), 0).tolist()


def test_random_is_inside_clips_and_reaches_every_place():
    c = clips(20, 7, 30)
    w = Windows(spans=c.spans, n_frames=8, batch_size=5, mode="random", seed=3)
    starts = np.concatenate([a_pass(w, p) for p in range(400)])
    allowed = {s for a, b in c.spans for s in range(a, b - 8 + 1)}
    assert set(starts.tolist()) == allowed, "the clip of 7 frames has no window of 8"
    counts = np.bincount(starts)[sorted(allowed)]
    assert counts.min() > 0.6 * counts.mean() and counts.max() < 1.4 * counts.mean()
    assert w.batches_per_pass == 1 and len(w.starts(0, 0)) == 5, "n_windows = 2 + 3, and batches are always full"


def test_random_draws_need_no_memory():
    w = Windows(spans=clips(100).spans, n_frames=8, batch_size=4, mode="random")
    late = w.starts(7, 2).tolist()
    w.starts(0, 0)
    assert w.starts(7, 2).tolist() == late
    assert late != w.starts(7, 1).tolist() and late != w.starts(2, 0).tolist()


def test_share_is_the_first_part():
    c = clips(50, 50)
    for share, count in {1.0: 10, 0.4: 4, 0.75: 7}.items():
        assert Windows(spans=c.spans, n_frames=10, batch_size=1, share=share).n_windows == count
    w = Windows(spans=c.spans, n_frames=10, batch_size=8, mode="random", share=0.4)
    assert max(a_pass(w, p).max() for p in range(50)) <= 30


def test_too_long_windows_name_both_lengths():
    with pytest.raises(Lab4Error, match=r"n_frames = 31.*at most 30"):
        Windows(spans=clips(20, 30).spans, n_frames=31, batch_size=1)
    with pytest.raises(Lab4Error, match=r"n_frames = 16.*at most 10.*first 0.2"):
        Windows(spans=clips(50).spans, n_frames=16, batch_size=1, share=0.2)


def test_gather_takes_frames_and_conditions_in_order():
    c = clips(30)
    frames, cond = gather(c, np.array([3, 20]), 5)
    assert frames.shape == cond.shape == (2, 5, 3, 2, 4) and frames.dtype == torch.float32
    assert (frames[:, :, 0, 0, 0] * 255).round().tolist() == [[3, 4, 5, 6, 7], [20, 21, 22, 23, 24]]
    assert torch.allclose(cond, 1 - frames)
    again, _ = gather(c, torch.tensor([3, 20]), 5)
    assert torch.equal(again, frames)


def test_gather_puts_the_conditions_of_further_frames_beside_and_stays_in_the_clip():
    c = clips(10, 20)
    _, cond = gather(c, np.array([0, 6, 10, 26]), 4, (0, -3, 3))
    assert cond.shape == (4, 4, 9, 2, 4)
    numbers = ((1 - cond[:, :, ::3, 0, 0]) * 255).round()
    assert numbers[..., 0].tolist() == [[0, 1, 2, 3], [6, 7, 8, 9], [10, 11, 12, 13], [26, 27, 28, 29]]
    assert numbers[..., 1].tolist() == [[0, 0, 0, 0], [3, 4, 5, 6], [10, 10, 10, 10], [23, 24, 25, 26]]
    assert numbers[..., 2].tolist() == [[3, 4, 5, 6], [9, 9, 9, 9], [13, 14, 15, 16], [29, 29, 29, 29]]
    _, actions = gather(Clips(c.frames, torch.arange(60.0).view(30, 2), c.starts), np.array([9]), 1, (0, 1))
    assert actions.tolist() == [[[18, 19, 18, 19]]], "the next frame is of another clip"


def test_gather_leaves_numbers_as_they_are():
    numbers = torch.randn(30, 7)
    _, cond = gather(Clips(clips(30).frames, numbers), np.array([4]), 3)
    assert cond.shape == (1, 3, 7) and torch.equal(cond[0], numbers[4:7])
