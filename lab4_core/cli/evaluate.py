"""`lab4 evaluate` and `lab4 test`: a run on clips whose truth is known, and on those where it is not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from lab4_core.cli import lab_flags
from lab4_core.cli.lab_flags import TesterFlags
from lab4_core.cli.options import File, Files, Folder, TestFlags, Whole
from lab4_core.cli.recipe import note
from lab4_core.cli.runs import dataset_for, open_run, print_score, score
from lab4_core.errors import Lab4Error
from lab4_core.paths import write_text


@dataclass(kw_only=True)
class Evaluate:
    """Score a run: PSNR and SSIM of free-running prediction, z drawn from N(0, I), beside its baselines."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """a run's folder, a folder with runs in it (the newest is taken), or a checkpoint of the lab"""
    split: Literal["val", "train", "test"] = "val"
    """the clips to score; the lab's pose test clips have no ground truth, those of robot pushing have"""
    samples: Whole = None
    """rollouts with different z per clip: their mean, and the best one beside it; else as the run says"""
    frames: Whole = None
    """frames of a clip, the given ones included, as 30 for 2 -> 28; else as the run says"""
    single: bool = False
    """of each clip one rollout, where a strategy of the run (averaged_views) would average several"""
    data: Folder = None
    """another dataset than the run's own: in the LAB4 layout, for the svg model in the BAIR layout"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto"""
    lpips: Files = ()
    """weights for LPIPS too: the linear layers that the package lpips publishes and, in a second --lpips, torchvision's
    alexnet or vgg16. Nothing is downloaded"""
    fvd: File = None
    """weights for FVD too, of I3D or of torchvision's r3d_18. Nothing is downloaded"""
    json: File = None
    """also write the numbers and their protocol to this file"""

    def main(self) -> None:
        run = open_run(self.run, None, self.data, {})
        more = {"lpips": self.lpips, "fvd": self.fvd, "single": self.single}
        result = score(run, self.data, self.split, self.samples, self.device, self.frames, **more)
        print_score(result)
        if self.json:
            write_text(self.json, json.dumps(result.summary(), indent=1) + "\n")


@dataclass(kw_only=True)
class Test:
    """Predict the test clips: submission.csv as the lab hands it in, a GIF and a film strip of each clip. For robot
    pushing, where the truth is known, psnr.csv with the dB of every frame in the stead of the submission."""

    run: Annotated[Positional[str | None], arg(metavar="RUN", help_behavior_hint="")] = None
    """a run's folder, a folder with runs in it (the newest is taken), or a checkpoint of the lab"""
    data: Folder = None
    """dataset in the LAB4 layout, for the svg model in the BAIR layout; else the run's own"""
    out: Folder = None
    """folder for the files; else test/ in the run"""
    seed: int = 0
    """seed of z"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto"""
    lab: OmitArgPrefixes[TestFlags] = field(default_factory=TestFlags)

    def main(self) -> None:
        flags = TesterFlags(**vars(self.lab))
        values, notes = lab_flags.tester_overrides(flags)
        ckpt = lab_flags.either(
            "RUN", self.run, "--ckpt", lab_flags.either("--ckpt", flags.ckpt, "--ckpt_path", flags.ckpt_path)
        )
        out = lab_flags.out_folder(self.out, flags)
        root = lab_flags.data_root(self.data, flags)
        if not ckpt:
            raise Lab4Error("nothing to test: expected a RUN, or --ckpt FILE")
        note(*notes)
        run = open_run(ckpt, None, root, values, lab_flags.for_bare_weights(flags))

        from lab4_core.inference import test

        for path in test(run, dataset_for(run, root), out=out, seed=self.seed, device=self.device):
            print(path)
