"""`lab4 report` and `lab4 student-edition`: the notebooks as one page, and as exercises."""

from __future__ import annotations

from dataclasses import dataclass

from lab4_core.cli import lab_flags, options
from lab4_core.cli.options import Folder
from lab4_core.cli.recipe import Common
from lab4_core.config import layer
from lab4_core.errors import Lab4Error


@dataclass(kw_only=True)
class Report(Common):
    """Train the report's runs, write the report as one HTML page and print its path last."""

    def main(self) -> None:
        from lab4_core.pages.report import make_report

        overrides = layer(self.own(), options.set_overrides(self.sets))
        recipe = self.recipe(overrides)
        print(make_report(**recipe, data=lab_flags.local_path(self.data), out=self.out, overrides=overrides))


@dataclass(kw_only=True)
class StudentEdition:
    """Write the notebooks with TODOs in place of their solutions, or check what is still to be done in them."""

    out: Folder = None
    """a new or empty folder for the student's notebooks"""
    check: Folder = None
    """a student's folder: show what each of its notebooks still lacks; exits with 1 while anything is missing"""

    def main(self) -> int:
        from lab4_core.pages.student_edition import build_edition, check_edition

        if bool(self.out) == bool(self.check):
            raise Lab4Error("student-edition: expected either --out DIR or --check DIR")
        if self.out:
            build_edition(self.out)
            print(self.out)
            return 0
        findings = check_edition(self.check)
        print(*findings, sep="\n")
        return 0 if all(finding.done for finding in findings) else 1
