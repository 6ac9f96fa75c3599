"""The one error type that users see, and the form of its message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Lab4Error(ValueError):
    """Something the user can fix: a path, a name, a value, a file.

    The message always names the thing, the value that was found and what was expected.
    Programming errors are `assert`s and keep their traceback.
    """


def unknown(what: str, name: object, known: Iterable[str], elsewhere: str = "") -> Lab4Error:
    """The error for a name that does not exist; it suggests the nearest one that does. elsewhere: where others come
    from, said if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    others = f"; {elsewhere}" if elsewhere and not near else ""
    return Lab4Error(f"unknown {what} {name!r}: {hint}known are {', '.join(known)}{others}")
