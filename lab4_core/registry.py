"""Named, typed parts: a frozen dataclass is both the configuration of a part and its behaviour.

    @register("annealing", "cosine")
    @dataclass(frozen=True, kw_only=True)
    class Cosine(Annealing):
        fraction: float = 0.5
        def __call__(self, step, total_steps) -> float: ...

The part is then `{"kind": "cosine", "fraction": 0.5}` in JSON, in papermill parameters and on the
command line, and nothing else has to be edited: in a family that is a package (models, data, strategies), every file
is imported when a name is first looked up, and so is every file that $LAB4_PARTS names.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
import types
import typing
from typing import Any

from lab4_core.errors import Lab4Error, unknown

# family -> the module whose import registers the built-in parts. Imported on first use, so that
# a command's --help does not pay for torch.
FAMILIES = {
    "annealing": "lab4_core.schedules",
    "lr_schedule": "lab4_core.schedules",
    "teacher_forcing": "lab4_core.teacher_forcing",
    "loss": "lab4_core.losses",
    "model": "lab4_core.models",
    "data": "lab4_core.data",
    "optimizer": "lab4_core.optimizers",
    "strategy": "lab4_core.strategies",
}
OWN = "LAB4_PARTS"
READABLE = "bool, int, float, str, a Literal, T | None or tuple[T, ...]"
_parts: dict[str, dict[str, type]] = {family: {} for family in FAMILIES}


def register(family: str, kind: str):
    """Class decorator: register a frozen dataclass as `kind` of `family`. A notebook cell that is run again replaces
    its earlier class; a name that another file has registered cannot be reused."""
    assert family in FAMILIES, f"no family {family!r}"

    def add(cls: type) -> type:
        assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen, f"{cls} must be a frozen dataclass"
        for name, hint in hints(cls).items():  # here, where the author sees it
            assert readable(hint), f"{cls.__name__}.{name}: {hint}: expected {READABLE}"
        if not cls.__module__.startswith("lab4_core."):
            kinds(family)  # the built-in parts take their names first
        there = _parts[family].get(kind, cls)
        assert there.__module__ == cls.__module__, f"{family} {kind!r} is {there.__module__}.{there.__name__} already"
        cls.family, cls.kind = family, kind
        _parts[family][kind] = cls
        return cls

    return add


def kinds(family: str) -> list[str]:
    """The names known in a family, sorted."""
    home = importlib.import_module(FAMILIES[family])
    for file in pkgutil.iter_modules(getattr(home, "__path__", ())):
        importlib.import_module(f"{home.__name__}.{file.name}")
    for path in own_files():
        _import_file(path)
    return sorted(_parts[family])


def own_files() -> list[str]:
    """The user's own files with parts, which $LAB4_PARTS names, separated as in $PATH. The paths in the variable are
    made absolute: kernels and the points of a sweep inherit it and work in other folders."""
    paths = [os.path.abspath(os.path.expanduser(p)) for p in os.environ.get(OWN, "").split(os.pathsep) if p]
    if paths:
        os.environ[OWN] = os.pathsep.join(paths)
    return paths


def _import_file(path: str) -> None:
    """Import a Python file by its path, once. Raises `Lab4Error` if that fails, naming the line."""
    if any(getattr(module, "__dict__", {}).get("__file__") == path for module in list(sys.modules.values())):
        return
    name = f"lab4_parts_{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or not os.path.isfile(path):
        raise Lab4Error(f"{OWN}: {path}: expected a Python file that registers parts, NAME.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == path]
        line = lines[-1] if lines else getattr(e, "lineno", "?")
        raise Lab4Error(f"{OWN}: {path}, line {line}: {type(e).__name__}: {e}") from e


def readable(hint: Any) -> bool:
    """Whether `coerce` can turn what a user types into a field of this type."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return len(options) == 2 and type(None) in options and all(o is type(None) or readable(o) for o in options)
    if origin is tuple:
        return len(options) == 2 and options[1] is ... and readable(options[0])
    return origin is typing.Literal or hint in (bool, int, float, str)


def part_class(family: str, kind: str) -> type:
    if kind not in kinds(family):
        raise unknown(family, kind, _parts[family], elsewhere=f"{OWN} names the files that register others")
    return _parts[family][kind]


def build(family: str, spec: Any) -> Any:
    """A part from what a user writes: a name, a dict with `kind`, or the part itself.

    Raises `Lab4Error` naming the field for an unknown kind, an unknown field or a value of the wrong type.
    """
    if getattr(spec, "family", None) == family and not isinstance(spec, type):
        return spec
    if isinstance(spec, str):
        spec = {"kind": spec}
    if not isinstance(spec, dict) or not isinstance(spec.get("kind"), str):
        raise Lab4Error(
            f"{family} = {spec!r}: expected a name or a dict with 'kind', one of {', '.join(kinds(family))}"
        )
    cls = part_class(family, spec["kind"])
    return from_dict(cls, {k: v for k, v in spec.items() if k != "kind"}, where=f"{family} {spec['kind']!r}")


def spec_of(part: Any) -> dict[str, Any]:
    """The dict a part round-trips through: `build(family, spec_of(part)) == part`."""
    return {"kind": part.kind, **{f.name: plain(getattr(part, f.name)) for f in dataclasses.fields(part)}}


def plain(value: Any) -> Any:
    """Plain JSON types of a value: parts become dicts, tuples become lists."""
    if dataclasses.is_dataclass(value):
        return spec_of(value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def from_dict(cls: type, values: dict[str, Any], where: str) -> Any:
    """A dataclass from plain values, with each name and type checked (an int is accepted for a float)."""
    types_of = hints(cls)
    for name in values:
        if name not in types_of:
            raise unknown(f"field of {where}:", name, types_of)
    checked = {name: coerce(value, types_of[name], f"{where}: {name}") for name, value in values.items()}
    return cls(**checked)


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The type of each field of a dataclass, in order."""
    found = typing.get_type_hints(cls, include_extras=True)
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}


def coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` converted to the type `hint`, or a `Lab4Error` that names both. A number may be given as text
    (papermill and the command line pass text)."""
    options = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, family, *_ = options
        if inner is tuple:
            if isinstance(value, (str, dict)):
                value = [value] if value else []
            if not isinstance(value, (list, tuple)):
                raise Lab4Error(f"{where} = {value!r}: expected a list of names of a {family}, or dicts with 'kind'")
            return tuple(build(family, v) for v in value)
        return build(family, value)
    if origin is typing.Literal:
        if value not in options:
            raise Lab4Error(f"{where} = {value!r}: expected one of {', '.join(map(repr, options))}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "")):
            return None
        hint = next(o for o in options if o is not type(None))
        return coerce(value, hint, where)
    if origin is tuple:
        if isinstance(value, str):
            value = value.replace(",", " ").split()
        if not isinstance(value, (list, tuple)):
            raise Lab4Error(f"{where} = {value!r}: expected a list")
        return tuple(coerce(v, options[0], f"{where}[{i}]") for i, v in enumerate(value))
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[hint]
    try:
        if hint is bool:
            if isinstance(value, str):
                return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
            if isinstance(value, (bool, int)) and value in (0, 1):
                return bool(value)
        elif hint is str:
            if isinstance(value, str):
                return value
        elif hint is int and isinstance(value, int) and not isinstance(value, bool):
            return value  # by way of float, a large one would change
        elif not isinstance(value, bool) and isinstance(value, (int, float, str)):
            number = float(value)
            if hint is float and number == number and abs(number) != float("inf"):
                return number
            if hint is int and number == int(number):
                return int(number)
    except (KeyError, ValueError, OverflowError):
        pass
    raise Lab4Error(f"{where} = {value!r}: expected {expected}")


def check(ok: bool, where: str, value: Any, expected: str) -> None:
    """Raise the `Lab4Error` for a value out of range unless it is `ok`."""
    if not ok:
        raise Lab4Error(f"{where} = {value!r}: expected {expected}")
