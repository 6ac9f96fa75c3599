"""Schedules against the formulas they come from."""

import math
from itertools import product

import numpy as np
import pytest

from lab4_core import registry
from lab4_core.schedules import Cosine, Cyclical, Monotonic, MultiStep, cycle_linear


def published_frange_cycle_linear(n_iter, start, stop, n_cycle, ratio):
    """The array of Fu et al. 2019, written out from the paper's description: a running sum in every cycle."""
    values = np.full(n_iter, float(stop))
    period = n_iter / n_cycle
    rise = (stop - start) / (period * ratio)
    for cycle in range(n_cycle):
        value, i = float(start), 0
        while value <= stop and int(i + cycle * period) < n_iter:
            values[int(i + cycle * period)] = value
            value += rise
            i += 1
    return values


@pytest.mark.parametrize("n_iter", [1, 7, 10, 22, 70, 333])
def test_the_stateless_ramp_is_the_published_array(n_iter):
    for start, n_cycle, ratio in product([0.0, 0.01, 0.015], [1, 3, 4, 10, 100], [0.25, 0.5, 0.6, 1.0, 1.5, 2.0]):
        published = published_frange_cycle_linear(n_iter, start, 1.0, n_cycle, ratio)
        ours = [cycle_linear(i, n_iter, start, 1.0, n_cycle, ratio) for i in range(n_iter)]
        # where the running sum lands on `stop` only up to rounding, the two may differ in that rounding
        np.testing.assert_allclose(ours, published, atol=1e-9, err_msg=f"{start = }, {n_cycle = }, {ratio = }")


def test_monotonic_is_one_cycle_and_none_is_constant():
    monotonic, cyclical = Monotonic(ratio=0.5), Cyclical(cycles=1, ratio=0.5)
    assert [monotonic(e, 20) for e in range(20)] == [cyclical(e, 20) for e in range(20)]
    assert monotonic(0, 20) == 0.0 and monotonic(5, 20) == pytest.approx(0.5) and monotonic(19, 20) == 1.0
    none = registry.build("annealing", "none")
    assert {none(e, 9) for e in range(9)} == {1.0}


@pytest.mark.parametrize("kind", registry.kinds("annealing"))
def test_beta_stays_between_start_and_stop(kind):
    part = registry.build("annealing", {"kind": kind, "stop": 0.7})
    values = [part(s, 101) for s in range(101)]
    assert min(values) >= 0 and max(values) <= 0.7 + 1e-12
    assert max(values) == pytest.approx(0.7, rel=0.15), "it gets there"


def test_learning_rate_schedules_by_hand():
    lab = MultiStep()
    assert [lab(e, 70) for e in (0, 1, 2, 4, 5, 69)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = Cosine(warmup=0.1)
    assert cosine(0, 100) < cosine(9, 100) < 1.0
    assert cosine(10, 100) == pytest.approx(1.0)
    assert cosine(55, 100) == pytest.approx(0.5)
    assert cosine(99, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert registry.build("lr_schedule", {"kind": "exponential", "gamma": 0.5})(3, 10) == 0.125
    step = registry.build("lr_schedule", {"kind": "step", "every": 3, "gamma": 0.5})
    assert [step(e, 10) for e in (0, 2, 3, 5, 6, 9)] == [1, 1, 0.5, 0.5, 0.25, 0.125]
    assert [registry.build("lr_schedule", "constant")(s, 10) for s in range(10)] == [1.0] * 10
    warm = registry.build("lr_schedule", {"kind": "constant", "warmup": 0.4})
    assert [warm(s, 10) for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
