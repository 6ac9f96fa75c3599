"""What all widgets share: controls where someone can use them, a figure where nobody can."""

from __future__ import annotations

from functools import cached_property
from html import escape
from typing import Any

import IPython
import ipywidgets as w
from matplotlib.figure import Figure

from lab4_core.media import figure_html
from lab4_core.plots.style import Picture


def someone_watches() -> bool:
    """Whether this code runs in a notebook that somebody has open.

    A front end lets the kernel ask questions (`input()`) with every cell it sends; papermill, nbval and nbconvert do
    not. A widget made for nobody would be stored as a dead view, and headless runs have been seen to hang on its
    messages.
    """
    kernel = getattr(IPython.get_ipython(), "kernel", None)
    return kernel is not None and bool(getattr(kernel, "_allow_stdin", True))


def png(picture: bytes | Figure) -> bytes:
    """A picture as PNG bytes, whether it is given as such or as a figure."""
    return Picture(picture, alt="").png(dpi=80) if isinstance(picture, Figure) else picture


def stacked(*parts: w.Widget) -> w.Widget:
    """Controls and pictures from top to bottom, each at its own width: a stretched picture is blurred."""
    return w.VBox(parts, layout={"align_items": "flex-start", "max_width": "100%"})


def words(alt: str, caption: str = "") -> str:
    """What stands under a picture that moves, as HTML: its caption, and for a screen reader alone what it shows. An
    `Image` has no alt text, and one with a tooltip is not displayed at all."""
    unseen = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)"
    return (
        f'<div style="line-height:1.4;max-width:44rem"><span style="{unseen}">Picture: {escape(alt)}. </span>'
        f"{escape(caption)}</div>"
    )


class Live:
    """A widget with a static twin. Subclasses define `still`, `build`, `alt` and `caption`."""

    alt: str
    caption: str

    def still(self) -> bytes:
        """The static twin, a PNG. Computed on demand."""
        raise NotImplementedError

    def build(self) -> w.Widget:
        """The controls and the picture they change, with its `words`."""
        raise NotImplementedError

    @cached_property
    def widget(self) -> w.Widget:
        """The result of `build`, made once: a second display shows the same state."""
        return self.build()

    def __repr__(self) -> str:  # constant, so that a notebook's stored output can be compared
        return type(self).__name__

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        still = self.still()
        page = figure_html(still, "image/png", self.alt, self.caption)
        bundle = {"text/html": page, "image/png": still, "text/plain": repr(self)}
        if someone_watches():
            bundle |= self.widget._repr_mimebundle_() | {"text/plain": repr(self)}
        return bundle
