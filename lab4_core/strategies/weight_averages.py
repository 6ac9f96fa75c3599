"""Averages of the weights over the course of training, evaluated instead of the last ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lab4_core.registry import check, register
from lab4_core.strategies.base import Strategy


@register("strategy", "ema")
@dataclass(frozen=True, kw_only=True)
class EMA(Strategy):
    """Evaluate an exponential moving average of the weights (Kingma and Ba 2015, section 7.2; with the customary
    warm-up of the decay, (1 + t) / (10 + t), so a short run is not held back by its first weights)."""

    decay: float = 0.998

    def __post_init__(self):
        check(0 < self.decay < 1, "ema strategy: decay", self.decay, "a factor in (0, 1)")

    def start(self, model):
        return {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def after_step(self, model, state, step):
        decay, values = min(self.decay, (1 + step) / (10 + step)), model.state_dict()
        averaged = [name for name, value in values.items() if value.is_floating_point()]
        average = get_ema_multi_avg_fn(decay)  # all tensors in a few kernels, not in one each
        average([state[name] for name in averaged], [values[name] for name in averaged], None)
        for name in values.keys() - averaged:
            state[name].copy_(values[name])

    def eval_weights(self, state):
        return state


@register("strategy", "swa")
@dataclass(frozen=True, kw_only=True)
class SWA(Strategy):
    """Evaluate the uniform average of the weights at the ends of the last epochs (Izmailov et al. 2018,
    arXiv 1803.05407): a soup of one run's own checkpoints. Running averages of BatchNorm are averaged as well, not
    recomputed as in the paper's section 3.

    begin: share of the epochs after which averaging begins; until then the trained weights are evaluated.
    """

    begin: float = 0.5

    def __post_init__(self):
        check(0 <= self.begin < 1, "swa strategy: begin", self.begin, "a share in [0, 1)")

    def start(self, model):
        average = {f"average.{k}": v.detach().clone() for k, v in model.state_dict().items()}
        return {"count": torch.zeros((), dtype=torch.int64), **average}

    @torch.no_grad()
    def after_epoch(self, model, state, epoch, epochs):
        if epoch + 1 <= self.begin * epochs:
            return
        state["count"] += 1
        for name, value in model.state_dict().items():
            average = state[f"average.{name}"]
            if value.is_floating_point():
                average.lerp_(value, 1 / int(state["count"]))
            else:
                average.copy_(value)

    def eval_weights(self, state):
        if not state["count"]:
            return None
        return {k.removeprefix("average."): v for k, v in state.items() if k != "count"}
