"""What the property tests share: every case ends in success or in one `Lab4Error` that names what is wrong."""

from __future__ import annotations

import collections
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from lab4_core.errors import Lab4Error

SHARE = float(os.environ.get("LAB4_CASES") or (20 if os.environ.get("LAB4_LONG") == "1" else 1))
SECONDS = 60  # a case that takes longer hangs
COUNTS: collections.Counter[str] = collections.Counter()

# What people and programs put where a value is expected.
WORDS = ["", " ", "nan", "inf", "-inf", "1e400", "true", "none", "lab", "compact", "cyclical", "{}", "[]",
         "[" * 2000, "../x", "a\0b", "<b>", "0x10", "1_000", "１２", "\ud800", "a.b", "elbo", "1,2", "--seed",
         "~nobody/x"]  # fmt: skip
NUMBERS = [0, -1, 1, 2, 3, 8, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, 0.5, 1e-320, 1e308, -0.0]
SCALARS = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.none(), st.booleans(), st.integers(-3, 50), st.floats(),
    st.text(max_size=6),
)  # fmt: skip
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(["kind", "lr", "cycles", "root"]), st.text(max_size=3)), inner,
                        max_size=3),
    ),
    max_leaves=4,
)  # fmt: skip


def cases(n: int) -> Callable:
    """So many examples in CI, twenty times as many in the long form, `LAB4_CASES` times as many where that is set."""
    return hypothesis.settings(max_examples=max(1, round(SHARE * n)))


def enough(least: int, kinds: int, record_property: Callable[[str, Any], None]) -> None:
    """The last test of a file of cases: there were so many at least, of so many kinds; the summary says how many."""
    if len(COUNTS) < kinds:
        pytest.skip("not all of this file was run")
    record_property("cases of bad input", COUNTS.total())
    print(dict(COUNTS), "=", COUNTS.total())
    assert COUNTS.total() >= least * min(1, SHARE)


@contextmanager
def no_hang() -> Iterator[None]:
    def stop(number, frame):
        raise AssertionError(f"hangs: not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def success_or_one_error(what: str, names: list[Any], action: Callable[[], Any]) -> Any:
    """The value of `action()`, or its `Lab4Error`, which must name one of `names`; anything else fails the test."""
    COUNTS[what] += 1
    try:
        with no_hang():
            return action()
    except Lab4Error as e:
        said = str(e)
        assert any(str(name) in said or repr(str(name))[1:-1] in said for name in names), (
            f"{said!r} names none of {names}"
        )
        assert "Traceback" not in said
        return e
