"""The command `lab4`. Each sub-command is a dataclass in a file of this folder: its fields are the options, `main`
does the work.

torch, matplotlib and nbconvert are imported inside `main`, so that `--help` is immediate.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import tyro
from tyro.conf import FlagCreatePairsOff

from lab4_core.cli.bench import Bench
from lab4_core.cli.claims import Claims
from lab4_core.cli.data import Data
from lab4_core.cli.evaluate import Evaluate, Test
from lab4_core.cli.pages import Report, StudentEdition
from lab4_core.cli.sweep import Sweep
from lab4_core.cli.train import Train
from lab4_core.cli.weights import Export, Import, Soup
from lab4_core.errors import Lab4Error

COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "test": Test,
    "report": Report,
    "sweep": Sweep,
    "claims": Claims,
    "data": Data,
    "export": Export,
    "import": Import,
    "soup": Soup,
    "bench": Bench,
    "student-edition": StudentEdition,
}


def at_home(argument: str) -> str:
    """Expand ~/x and --out=~/x: most shells leave a ~ after a = alone."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + (os.path.expanduser(value) if value.split("/")[0] == "~" else value)


def parse(argv: Sequence[str] | None = None) -> Any:
    """The command that a command line names. For a wrong one tyro prints its own error and exits with 2."""
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="lab4",
        description="Conditional VAEs that predict video: train, score and roll out.",
        args=[at_home(argument) for argument in (sys.argv[1:] if argv is None else argv)],
        use_underscores=True,
        config=(FlagCreatePairsOff,),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (a sweep with failed points), 2 (an error), 130 (Ctrl-C)."""
    command = None
    try:
        try:
            command = parse(argv)
        finally:  # --help and errors exit from parse
            sys.stdout.flush()
        code = command.main() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough and is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Lab4Error as e:
        if os.environ.get("LAB4_DEBUG") == "1":
            raise
        print(f"lab4: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = isinstance(command, (Train, Report, Sweep, Claims)) or getattr(command, "quality", None)
        print(f"lab4: stopped{'; the same command continues where it was' if goes_on else ''}", file=sys.stderr)
        return 130
