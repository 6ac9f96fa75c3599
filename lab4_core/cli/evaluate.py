"""`lab4 evaluate` and `lab4 test`: a run on clips with ground truth, and on those without."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from lab4_core.cli import lab_flags
from lab4_core.cli.options import File, Files, Folder, TestFlags, Whole
from lab4_core.cli.recipe import note
from lab4_core.cli.runs import dataset_for, open_run, print_score
from lab4_core.errors import Lab4Error
from lab4_core.paths import write_text


@dataclass(kw_only=True)
class Evaluate:
    """Score a run: PSNR and SSIM of free-running prediction, z drawn from N(0, I), beside the baselines."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """a run's folder, a folder of runs (the newest is taken), an exported file, or a checkpoint of the lab"""
    split: Literal["val", "train", "test"] = "val"
    """the clips to score; the lab's pose test clips have no ground truth, those of robot pushing do"""
    samples: Whole = None
    """rollouts with different z per clip: their mean score, and that of the best one; default: the run's"""
    frames: Whole = None
    """frames per clip, the given ones included, as in 30 for 2 -> 28; default: the run's"""
    single: bool = False
    """one rollout per clip, even if a strategy of the run (averaged_views) would average several"""
    data: Folder = None
    """a dataset other than the run's own, in the LAB4 layout (BAIR layout for the svg model)"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto"""
    lpips: Files = ()
    """also score LPIPS, with these weights; nothing is downloaded.
    The linear layers that the package lpips publishes and, in a second --lpips, torchvision's alexnet or vgg16"""
    fvd: File = None
    """also score FVD, with these weights of I3D or of torchvision's r3d_18; nothing is downloaded"""
    json: File = None
    """also write the scores and their protocol to this file"""

    def main(self) -> None:
        from lab4_core.inference import evaluate

        run = open_run(self.run, None, self.data, {})
        how = {"split": self.split, "n_samples": self.samples, "device": self.device, "frames": self.frames,
               "lpips": self.lpips, "fvd": self.fvd, "single": self.single}  # fmt: skip
        result = evaluate(run, data=dataset_for(run, self.data), **how)
        print_score(result)
        if self.json:
            write_text(self.json, json.dumps(result.summary(), indent=1) + "\n")


@dataclass(kw_only=True)
class Test:
    """Predict the test clips: submission.csv in the lab's format, a GIF and a film strip of each clip. For robot
    pushing, where the truth is known, psnr.csv with the dB of every frame replaces the submission."""

    run: Annotated[Positional[str | None], arg(metavar="RUN", help_behavior_hint="")] = None
    """a run's folder, a folder of runs (the newest is taken), an exported file, or a checkpoint of the lab"""
    data: Folder = None
    """dataset in the LAB4 layout (BAIR layout for the svg model); default: the run's own"""
    out: Folder = None
    """folder for the files; default: test/ in the run"""
    seed: int = 0
    """seed of z"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto"""
    lab: OmitArgPrefixes[TestFlags] = field(default_factory=TestFlags)

    def main(self) -> None:
        flags = self.lab
        values, notes = lab_flags.tester_overrides(flags)
        ckpt = lab_flags.one_of(RUN=self.run, ckpt=flags.ckpt, ckpt_path=flags.ckpt_path)
        out = lab_flags.out_folder(self.out, flags)
        root = lab_flags.data_root(self.data, flags)
        if not ckpt:
            raise Lab4Error("nothing to test: expected a RUN, or --ckpt FILE")
        note(*notes)
        run = open_run(ckpt, None, root, values, lab_flags.for_bare_weights(flags))

        from lab4_core.inference import test

        for path in test(run, dataset_for(run, root), out=out, seed=self.seed, device=self.device):
            print(path)
