"""Teacher forcing as weights on the ground truth: the lab's decay, the draws, the blend."""

import numpy as np
import pytest

from lab4_core import registry
from lab4_core.teacher_forcing import Constant, Linear


@pytest.mark.parametrize("start", [0, 1, 2, 10])
def test_the_linear_ratio_is_that_of_the_templates_loop(start):
    """Train an epoch, count it, and then `if current_epoch >= tfr_sde: tfr = max(0, tfr - tfr_d_step)`."""
    tfr, used = 1.0, []
    for counter in range(1, 31):
        used.append(tfr)
        if counter >= start:
            tfr = max(0.0, tfr - 0.1)
    assert [Linear(start_decay=start).ratio_at(e, 30) for e in range(30)] == pytest.approx(used, abs=1e-9)


def test_the_labs_decay_by_hand():
    # tfr 1.0, tfr_sde 10, tfr_d_step 0.1: the update follows the epoch counter, so epoch 10 already has 0.9
    ratios = [Linear().ratio_at(e, 70) for e in (0, 9, 10, 11, 18, 19, 60)]
    assert ratios == pytest.approx([1.0, 1.0, 0.9, 0.8, 0.1, 0.0, 0.0])


@pytest.mark.parametrize("kind", registry.kinds("teacher_forcing"))
def test_weights_are_draws_that_depend_on_nothing_but_seed_and_position(kind):
    part = registry.build("teacher_forcing", kind)
    a = part.gt_weight(seed=3, step=17, epoch=12, epochs=40, batch=5, frames=15)
    b = part.gt_weight(seed=3, step=17, epoch=12, epochs=40, batch=5, frames=15)
    assert a.shape == (5, 15) and a.dtype == np.float32
    assert (a == b).all() and ((a >= 0) & (a <= 1)).all()
    assert (a[:, 0] == 1).all(), "the first input is a given frame"


def test_how_often_it_is_drawn():
    def weights(draw, step, epoch=0):
        return Constant(ratio=0.5, draw=draw).gt_weight(0, step, epoch, 10, 64, 15)[:, 1:]

    for draw in ("epoch", "batch"):
        assert len(np.unique(weights(draw, 0))) == 1, "one draw for all clips and frames"
    assert 0.4 < weights("frame", 0).mean() < 0.6
    per_batch = [weights("batch", s)[0, 0] for s in range(200)]
    assert 0.35 < np.mean(per_batch) < 0.65
    assert len({weights("epoch", s)[0, 0] for s in range(50)}) == 1, "one draw for all batches of an epoch"
    assert 0.3 < np.mean([weights("epoch", 0, e)[0, 0] for e in range(100)]) < 0.7


def test_the_blend_of_report_003_feeds_the_ratio_when_the_draw_is_true():
    drawn = {float(Constant(ratio=0.25, blend=True, draw="batch").gt_weight(0, s, 0, 1, 1, 3)[0, 1]) for s in range(60)}
    assert drawn == {0.0, 0.25}


def test_free_running_and_full_forcing():
    assert (Constant(ratio=1.0).gt_weight(0, 0, 0, 1, 2, 9) == 1).all()
    assert (Constant(ratio=0.0).gt_weight(0, 0, 0, 1, 2, 9)[:, 1:] == 0).all()
