"""`lab4 bench`: speed as ratios to the plain loop, and time to quality."""

from __future__ import annotations

from dataclasses import dataclass

from lab4_core.cli import options
from lab4_core.cli.options import File, Folder, Sets


@dataclass(kw_only=True)
class Bench:
    """Measure on this machine how fast training steps, rollouts and their parts are, against the lab's plain loop."""

    json: File = None
    """also write the measurements to this file"""
    quick: bool = False
    """a check that it runs, not a measurement: a narrow model, short clips, one repeat"""
    quality: float | None = None
    """instead, train best, compact and lab for this many minutes each, and score their rollouts along the way"""
    lab_times: float = 0.0
    """with --quality: give lab this many times the minutes that best took to reach 30 dB, if that is longer"""
    data: Folder = None
    """with --quality: root of the dataset, as for train"""
    out: Folder = None
    """with --quality: folder for the runs, as for train"""
    sets: Sets = ()
    """with --quality: set a field of every preset, as in hold_out=0"""

    def main(self) -> None:
        if self.quality is not None:
            from lab4_core.bench.quality import in_words, time_to_quality

            found = time_to_quality(self.quality, self.data, self.out, json_path=self.json, lab_times=self.lab_times,
                                    overrides=options.set_overrides(self.sets))  # fmt: skip
            print(*in_words(found), sep="\n")
            return
        unused = {"--lab_times": self.lab_times, "--data": self.data, "--out": self.out, "--set": self.sets}
        options.refuse("bench", unused, "--quality MINUTES beside it")
        from lab4_core.bench.speed import run_bench

        run_bench(json_path=self.json, quick=self.quick)
