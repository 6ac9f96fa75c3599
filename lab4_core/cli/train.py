"""`lab4 train`: the run that a command line describes, and its training."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Literal

from tyro.conf import OmitArgPrefixes, UseAppendAction

from lab4_core.cli import lab_flags, options
from lab4_core.cli.options import ConfigFlags, TrainFlags
from lab4_core.cli.recipe import Common, note
from lab4_core.cli.runs import dataset_for, draw, open_run, print_score
from lab4_core.config import Config, layer
from lab4_core.errors import Lab4Error
from lab4_core.presets import load_config


@dataclass(kw_only=True)
class Train(Common):
    """Train a run, or resume it, and print its folder last. A finished run is not trained again."""

    resume: Literal["auto", "never"] = "auto"
    """auto: resume from the last checkpoint; never: start afresh"""
    logger: UseAppendAction[tuple[Literal["tensorboard", "wandb"], ...]] = ()
    """also log to TensorBoard or Weights & Biases (offline), which must be installed"""
    config: OmitArgPrefixes[ConfigFlags] = field(default_factory=ConfigFlags)
    lab: OmitArgPrefixes[TrainFlags] = field(default_factory=TrainFlags)

    def configuration(self) -> tuple[Config, list[str]]:
        """The configuration of the run, and the lines on flags without an effect."""
        lab_values, notes = lab_flags.lab_overrides(self.lab, self.config.n_past, self.preset)
        typed = options.typed(self.config), self.own(), options.set_overrides(self.sets)
        asked = {k: v for values in typed for k, v in values.items()}
        if all(asked.get(k) is not None for k in ("steps", "minutes")):  # layered, the later one would win silently
            raise Lab4Error(f"steps = {asked['steps']}, minutes = {asked['minutes']}: expected at most one of them")
        overrides = layer(lab_values, *typed)
        recipe = self.recipe(overrides, lab=bool(lab_flags.given(self.lab)))
        root = lab_flags.data_root(self.data, self.lab)
        try:
            return load_config(**recipe, data=root, overrides=overrides), notes
        except Lab4Error as e:
            lists = [f"{k}={v}" for k, v in options.parse_sets(self.sets).items() if len(options.parse_axis(v)) > 1]
            if lists:
                raise Lab4Error(f"{e} (to try several values: lab4 sweep --set {' --set '.join(lists)})") from e
            raise

    def main(self) -> None:
        flags = self.lab
        cfg, notes = self.configuration()
        out = lab_flags.out_folder(self.out, flags)
        ckpt = lab_flags.one_of(ckpt=flags.ckpt, ckpt_path=flags.ckpt_path)
        loggers = tuple(dict.fromkeys(self.logger))
        if flags.use_wandb and importlib.util.find_spec("wandb"):
            loggers = tuple(dict.fromkeys((*loggers, "wandb")))
        elif flags.use_wandb:
            notes.append("--use_wandb has no effect: wandb is not installed, pip install 'lab4[wandb]' adds it")
        if flags.test and not ckpt:
            raise Lab4Error("--test needs --ckpt FILE: it evaluates a checkpoint on val")
        if ckpt and not flags.test:
            raise Lab4Error(
                f"--ckpt {ckpt}: an interrupted run continues when its command is repeated, and --test "
                "evaluates a checkpoint on val; to begin with what another run has learnt, lab4 export it (a .ckpt "
                'after lab4 import) and add the strategy {"kind": "warm_start", "weights": "FILE.safetensors"}'
            )
        note(*notes)
        if flags.test:
            from lab4_core.inference import evaluate

            root = lab_flags.data_root(self.data, flags)
            values = {k: cfg.to_dict()[k] for k in ("model", "data", "eval_frames")}
            run = open_run(ckpt, out, root, values, lab_flags.for_bare_weights(flags))
            result = evaluate(run, data=dataset_for(run, root), device=cfg.device, frames=flags.val_vi_len)
            print_score(result)
        else:
            from lab4_core.distributed import leads
            from lab4_core.engine import train

            run = train(cfg, out=out, resume=self.resume, loggers=loggers)
            if not leads():  # under torchrun only the first process prints
                return
            if run.result.get("status") == "partial":
                raise KeyboardInterrupt
            result = run.scores()
        draw(run, result, loss=flags.plot_training_loss and not flags.test, psnr=flags.plot_psnr or flags.test)
        print(run.dir)
