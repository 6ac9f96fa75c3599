"""`lab4 export`, `lab4 import` and `lab4 soup`: weights as files, and their averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from lab4_core.cli import lab_flags, options
from lab4_core.cli.options import Folder, Sets
from lab4_core.errors import Lab4Error


@dataclass(kw_only=True)
class Export:
    """Write the best weights of a run, with its configuration and score, to one safetensors file."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """a run's folder"""
    file: Annotated[Positional[str], arg(metavar="FILE")]
    """the file, NAME.safetensors; `lab4 import` turns it back into a run"""

    def main(self) -> None:
        from lab4_core.inference import load_run
        from lab4_core.weights import export_weights

        print(export_weights(load_run(self.run), lab_flags.local_path(self.file)))


@dataclass(kw_only=True)
class Import:
    """Turn an exported file or a published checkpoint of the lab into a run, for evaluate, test and the notebooks."""

    ckpt: Annotated[Positional[str], arg(metavar="CKPT")]
    """a .safetensors file of `lab4 export`, or the lab's .ckpt file: {"state_dict": ...} or the bare weights"""
    out: Folder = None
    """folder for the run; default: $LAB4_RUNS, else runs/ in the checkout"""
    norm: options.one_of(["image", "running"]) = None
    """BatchNorm of the poses: by each image's own statistics (image, the default), or by the running averages.
    The lab's template trains and tests with the former"""
    sets: Sets = ()
    """other values of the model, as in model.f_dim=64"""

    def main(self) -> None:
        from lab4_core.inference import import_checkpoint

        if self.ckpt.endswith(".safetensors"):
            from lab4_core.weights import pretrained

            if self.sets or self.norm:
                raise Lab4Error(
                    f"import {self.ckpt}: an exported file knows its configuration; expected no --set and no --norm"
                )
            print(pretrained(lab_flags.local_path(self.ckpt), self.out).dir)
            return
        norm = {"model.norm": self.norm} if self.norm else {}
        overrides = {**norm, **options.set_overrides(self.sets)}
        print(import_checkpoint(lab_flags.local_path(self.ckpt), self.out, overrides).dir)


@dataclass(kw_only=True)
class Soup:
    """Average the weights of runs that started from the same weights into one run, for evaluate and test."""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN...")]
    """folders of two or more runs of the same model"""
    out: Folder = None
    """folder for the run; default: $LAB4_RUNS, else runs/ in the checkout"""

    def main(self) -> None:
        from lab4_core.inference import load_run
        from lab4_core.soups import soup

        print(soup([load_run(folder) for folder in self.runs], self.out).dir)
