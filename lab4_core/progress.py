"""Progress in the form that suits the place: a bar in a notebook or a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress


class Progress:
    """`update(fraction, text)` as often as you like, `line(text)` to print where there is no bar, `close()`."""

    def __init__(self, title: str):
        self.title, self._last, self._share = title, 0.0, 0.0
        self._begin: tuple[float, float] | None = None  # when, and with what share done: a resumed run starts midway
        self._bar = _notebook_bar() or (_draw_terminal if sys.stderr.isatty() else None)

    def update(self, fraction: float, text: str = "") -> None:
        now, self._share = time.monotonic(), min(1.0, fraction)
        self._begin = self._begin or (now, fraction)
        if self._bar and now - self._last > 0.3:
            self._last = now
            spent, made = now - self._begin[0], fraction - self._begin[1]
            left = f"{_clock(spent * (1 - fraction) / made)} left" if made > 0.01 and fraction <= 1 else ""
            with suppress(OSError):  # nobody is watching any more: no reason to stop
                self._bar(self.title, self._share, f"{text}  {left}".strip())

    def line(self, text: str) -> None:
        if self._bar is None:
            with suppress(OSError):
                print(f"{self.title}: {text}", flush=True)
        else:
            self._last = 0.0

    def close(self, text: str = "", done: bool = True) -> None:
        """The last look of the bar: full, or unless it is `done`, as far as it came."""
        with suppress(OSError):
            if self._bar:
                self._bar(self.title, 1.0 if done else self._share, text)
            if self._bar is _draw_terminal:
                print(file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def _draw_terminal(title: str, fraction: float, text: str) -> None:
    done = int(28 * fraction)
    print(f"\r\x1b[K{title} [{'#' * done}{'.' * (28 - done)}] {text}", end="", file=sys.stderr, flush=True)


def _notebook_bar():
    """One output, updated in place, so a saved notebook keeps only the last state. Not a widget: an export would lose
    its state."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if not shell or not hasattr(shell, "kernel"):
        return None
    from html import escape

    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)

    def draw(title: str, fraction: float, text: str) -> None:
        handle.update(
            HTML(
                f"<label>{escape(title)} <progress value='{fraction:.3f}' max='1'></progress> "
                f"<code>{escape(text)}</code></label>"
            )
        )

    return draw
