"""Building blocks of the options: flags from the fields of a dataclass, and parsers of what people type."""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from lab4_core.cli.lab_flags import LabFlags, TesterFlags, local_path
from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.registry import hints

# options of the commands themselves: a metavar, and no "(default: None)"
Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Folder = Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")]
File = Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")]
Files = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE", help_behavior_hint="(repeatable)")]
Whole = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
Number = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
Sets = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE", help_behavior_hint="")]


def one_of(names: Sequence[str]) -> Any:
    """The type of an option that takes one of these words, or is left out."""
    return Annotated[Literal[tuple(names)] | None, arg(metavar="|".join(names), help_behavior_hint="")]


def flags_of(cls: type, without: Sequence[str] = ()) -> type:
    """A dataclass with the fields of `cls` as tyro flags, each unset until it is typed.

    Help and the default shown come from the fields' metadata; that default is the lab's.
    """
    types_of = hints(cls)
    made = []
    for f in dataclasses.fields(cls):
        if f.name in without:
            continue
        shown = f.metadata.get("lab", f.default)
        kind, metavar, unset = _flag_type(f, types_of[f.name])
        settings = arg(
            help=f.metadata["help"],
            metavar=metavar,
            help_behavior_hint="" if shown in (None, (), "") else f"(lab: {json.dumps(shown)})".replace('"', ""),
        )
        made.append((f.name, Annotated[kind, settings], field(default=unset)))
    flags = dataclasses.make_dataclass(cls.__name__, made, frozen=True, kw_only=True)
    flags.__doc__ = cls.__doc__
    return flags


def _flag_type(f: dataclasses.Field, hint: Any) -> tuple[Any, str | None, Any]:
    """(type on the command line, placeholder of its value in the help, value of an unset flag)."""
    if typing.get_origin(hint) is Annotated:  # a registered part, by its name
        return str | None, "KIND", None
    if "lab" in f.metadata and f.default is not None:  # a switch, or text of which "None" is a value
        return hint, None if hint is bool else "TEXT", f.default
    options = [o for o in typing.get_args(hint) if o is not type(None)]
    if typing.get_origin(hint) is Literal or hint is bool:
        options = options or ["true", "false"]
        return Literal[tuple(options)] | None, "|".join(options), None
    inner = options[0] if options else hint
    return inner | None, {int: "INT", float: "FLOAT", str: "TEXT"}[inner], None


def typed(flags: Any) -> dict[str, Any]:
    """The flags of a `flags_of(Config)` that were typed, as overrides."""
    return {k: names(k, v) for k, v in vars(flags).items() if v is not None}


COMMON = ("data", "model", "minutes", "seed")  # fields of Config that are options of the commands themselves


ConfigFlags = flags_of(Config, without=COMMON)
ConfigFlags.__doc__ = """Fields of a run. The defaults shown are the lab's; preset and profile may say otherwise.
A KIND is the name of a part; an unknown one lists them all. --set annealing.cycles=4 sets a value of a part."""
TrainFlags = flags_of(LabFlags)  # with the same names and defaults, so these serve as LabFlags and TesterFlags
TestFlags = flags_of(TesterFlags)


def refuse(command: str, options: Mapping[str, Any], expected: str) -> None:
    """Raise `Lab4Error` naming those of the options (by their flags) that are given: here they would have no effect."""
    if given := ", ".join(flag for flag, value in options.items() if value):
        raise Lab4Error(f"{command} {given}: expected {expected}")


def parse_sets(sets: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` texts as a dict. Raises `Lab4Error` for a text without a key or `=`."""
    values = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not key.strip() or not equals:
            raise Lab4Error(f"--set {text}: expected KEY=VALUE, as in --set annealing.cycles=4")
        values[key.strip()] = value.strip()
    return values


def parse_value(text: str) -> Any:
    """The JSON value that a text is, or else the text itself."""
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text


def parse_axis(text: str) -> list[Any]:
    """The values of a sweep's axis: a JSON list, or values separated by commas."""
    whole = parse_value(text)
    if isinstance(whole, (list, dict)):
        return whole if isinstance(whole, list) else [whole]
    return [parse_value(v.strip()) for v in text.split(",")]


def names(key: str, value: Any) -> Any:
    """The list of strategies that are named with commas between them; any other value unchanged."""
    return [v for v in value.split(",") if v] if key == "strategies" and isinstance(value, str) else value


def set_overrides(sets: Sequence[str]) -> dict[str, Any]:
    """The overrides of `Config` that `--set` gives a single run."""
    return {k: names(k, parse_value(v)) for k, v in parse_sets(sets).items()}


def dataset_root(data: str | None, variable: str = "LAB4_DATA") -> str | None:
    """The path of the dataset named here or in the environment, if any; absolute, since its runs may be read from
    elsewhere. Which variable names it depends on the model (`presets.source`)."""
    root = data or os.environ.get(variable)
    return str(Path(local_path(root)).expanduser().resolve()) if root else None
