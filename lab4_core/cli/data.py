"""`lab4 data`: datasets as folders of files."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from lab4_core.cli import options
from lab4_core.cli.options import Folder, Text, Whole
from lab4_core.errors import Lab4Error


@dataclass(kw_only=True)
class Data:
    """Write a synthetic dataset, the dancer in the LAB4 layout or the robot in the BAIR layout, or convert the BAIR
    release, and print the folder."""

    out: str
    """a new or empty folder"""
    kind: Literal["dancer", "robot"] = "dancer"
    """which dataset"""
    clips: Whole = None
    """training clips (default: dancer 4, robot 64)"""
    frames: Whole = None
    """frames per clip (default: dancer 630, robot 30)"""
    test_clips: Whole = None
    """test clips (default: dancer 2, robot 4)"""
    seed: int = 0
    """seed of the motion and the film noise"""
    size: Text = None
    """WIDTHxHEIGHT of the pictures in pixels (default: dancer 64x32, robot 64x64)"""
    from_tfrecord: Folder = None
    """instead, convert the BAIR release's TFRecords in this folder, as they are; only --out goes with it"""

    def main(self) -> None:
        from lab4_core.data import convert_tfrecords, write_bair, write_lab4
        from lab4_core.data.lab4_write import check_new
        from lab4_core.registry import build

        if self.from_tfrecord:
            others = [f for f in fields(self) if f.name not in ("out", "from_tfrecord")]
            changed = {f"--{f.name}": getattr(self, f.name) != f.default for f in others}
            options.refuse("data", changed, "nothing but --out beside --from_tfrecord")
            print(convert_tfrecords(self.from_tfrecord, self.out))
            return
        values = {k: getattr(self, k) for k in ("clips", "frames", "test_clips") if getattr(self, k) is not None}
        if self.size:
            width, x, height = self.size.partition("x")
            if not (x and width.isdecimal() and height.isdecimal()):
                raise Lab4Error(f"--size {self.size}: expected WIDTHxHEIGHT in pixels, as in 64x32")
            values |= {"width": int(width), "height": int(height)}
        dataset = build("data", {"kind": self.kind, "seed": self.seed, **values})
        check_new(self.out)  # before the work
        print((write_bair if self.kind == "robot" else write_lab4)(dataset.load(), self.out))
