"""Any function that draws, with a control for each of its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as w
from matplotlib.figure import Figure

from lab4_core.errors import Lab4Error
from lab4_core.widgets.live import Live, png, stacked, words

LOOK = {"style": {"description_width": "9em"}, "layout": {"width": "30em"}}


@dataclass(frozen=True)
class Slider:
    """A number from low to high; if all four are whole, so are the slider's values. log: equal distances are equal
    factors, and `step` counts powers of ten."""

    value: float
    low: float
    high: float
    step: float = 1
    log: bool = False

    def __post_init__(self):
        if not self.low <= self.value <= self.high or self.step <= 0 or (self.log and self.low <= 0):
            raise Lab4Error(f"{self}: expected low <= value <= high, a step above 0, and with log a low above 0")

    def control(self, label: str) -> w.Widget:
        common = {"value": self.value, "step": self.step, "description": label, "continuous_update": False, **LOOK}
        if self.log:
            return w.FloatLogSlider(min=math.log10(self.low), max=math.log10(self.high), **common)
        whole = all(isinstance(v, int) for v in (self.value, self.low, self.high, self.step))
        return (w.IntSlider if whole else w.FloatSlider)(min=self.low, max=self.high, **common)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    value: Any
    options: Sequence[Any]

    def __post_init__(self):
        if self.value not in self.options:
            raise Lab4Error(f"value = {self.value!r}: expected one of {', '.join(map(str, self.options))}")

    def control(self, label: str) -> w.Widget:
        return w.Dropdown(options=list(self.options), value=self.value, description=label, **LOOK)


@dataclass(frozen=True)
class Several:
    """Any selection from several values, as a tuple in their order."""

    value: tuple[Any, ...]
    options: Sequence[Any]

    def __post_init__(self):
        if not set(self.value) <= set(self.options):
            raise Lab4Error(f"value = {self.value!r}: expected some of {', '.join(map(str, self.options))}")

    def control(self, label: str) -> w.Widget:
        rows = min(8, len(self.options))
        return w.SelectMultiple(options=list(self.options), value=self.value, description=label, rows=rows, **LOOK)


@dataclass(frozen=True)
class Switch:
    """Yes or no."""

    value: bool

    def control(self, label: str) -> w.Widget:
        return w.Checkbox(value=self.value, description=label, **LOOK)


class Knobs(Live):
    """A picture and what it depends on.

    look: a pure function of keyword arguments that returns PNG bytes or a matplotlib `Figure`. knobs: for each of its
    arguments a `Slider`, `Choice`, `Several` or `Switch`. labels: what to call an argument beside its control.
    The static twin is the picture at the initial values of the knobs.
    """

    def __init__(
        self,
        look: Callable[..., bytes | Figure],
        knobs: Mapping[str, Slider | Choice | Several | Switch],
        *,
        alt: str,
        caption: str = "",
        labels: Mapping[str, str] | None = None,
    ):
        if not knobs:
            raise Lab4Error("no knob: expected at least one argument of the picture to have a control")
        if unknown := set(labels or ()) - set(knobs):
            raise Lab4Error(f"labels for {', '.join(sorted(unknown))}: expected some of {', '.join(knobs)}")
        self.look, self.knobs, self.alt, self.caption, self.labels = look, dict(knobs), alt, caption, dict(labels or {})

    @property
    def values(self) -> dict[str, Any]:
        """The initial state."""
        return {name: knob.value for name, knob in self.knobs.items()}

    def still(self) -> bytes:
        return png(self.look(**self.values))

    def build(self) -> w.Widget:
        controls = {name: knob.control(self.labels.get(name, name)) for name, knob in self.knobs.items()}
        picture = w.Image(value=self.still(), format="png")

        def draw(_change: Any) -> None:
            picture.value = png(self.look(**{name: control.value for name, control in controls.items()}))

        for control in controls.values():
            control.observe(draw, "value")
        return stacked(*controls.values(), picture, w.HTML(words(self.alt, self.caption)))
