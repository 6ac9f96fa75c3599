"""Model soups: the mean of the weights of several runs as one model, which costs no more than one of them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from lab4_core import accel, checkpoint
from lab4_core.errors import Lab4Error
from lab4_core.inference import load_model, run_of
from lab4_core.runlog import Run


def soup(runs: Sequence[Run], out: str | os.PathLike | None = None) -> Run:
    """The uniform soup of the best weights of two runs or more (Wortsman et al. 2022, arXiv 2203.05482), as a
    run that can be evaluated, tested and rolled out; its configuration is that of the first.

    The mean of weights is a good model only if the runs ended in one valley of the loss: the same initial weights (the
    same seed) with other settings, or one run's own checkpoints (strategy `swa`). The mean of runs with different seeds
    is useless, as `lab4 evaluate` shows. Integers (batch counters) are the first run's.
    Raises `Lab4Error` for fewer than two runs, or runs of different models.
    """
    if len(runs) < 2:
        raise Lab4Error(f"soup of {len(runs)} runs: expected 2 or more")
    models = [load_model(run, accel.pick_device("cpu")) for run in runs]  # checks each file against its own model
    first = models[0]
    for run, model in zip(runs, models):
        checkpoint.check_weights(first, model.state_dict(), f"run {run.dir}: not of the model of {runs[0].dir}")
    kept = [model.state_dict() for model in models]
    weights = {
        name: torch.stack([w[name] for w in kept]).mean(0) if value.is_floating_point() else value
        for name, value in kept[0].items()
    }
    first.load_state_dict(weights)
    like = checkpoint.load(runs[0].dir / "best.pt")
    names = ", ".join(run.dir.name for run in runs)
    return run_of(first, runs[0].config.replace(name="soup"), [like["frame_shape"], like["cond_shape"]], out,
                  {"status": "soup", "reason": f"mean of {names}"})  # fmt: skip
