"""Starting from what another training has learnt."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import nn

from lab4_core import distributed, tensor_files
from lab4_core.errors import Lab4Error
from lab4_core.registry import register
from lab4_core.strategies.base import Strategy


@register("strategy", "warm_start")
@dataclass(frozen=True, kw_only=True)
class WarmStart(Strategy):
    """Start from the weights of a trained model instead of random ones (Yosinski et al. 2014, arXiv 1411.1792).

    How a body hangs on a skeleton is much the same for every person: a model that has drawn one in hundreds of poses
    needs fewer frames of another. The whole network goes on learning; the empty scene is that of the new clips.

    weights: a file from `lab4 export`; "" is the model shipped with this package, trained on the synthetic dancer.
    digest: of that file's content, computed if it is left empty. A run that continues needs the same content.

    Tensors of another name or shape start at random, and so does everything if less than half of the model's numbers
    would fit; stderr says what does. Raises `Lab4Error` for a file that is missing, damaged, changed or holds a number
    that is not finite.
    """

    weights: str = ""
    digest: str = ""

    def __post_init__(self):
        if not self.digest:
            object.__setattr__(self, "digest", tensor_files.digest(self._file()))

    def _file(self) -> str:
        return self.weights or str(tensor_files.SHIPPED)

    def initialize(self, model):
        model.load_state_dict(self._fitting(model), strict=False)

    def start(self, model):
        own, fitting = model.state_dict(), self._fitting(model)
        new = sorted(own.keys() - fitting.keys())
        if new and distributed.leads():
            which = "all" if not fitting else ", ".join(new[:4]) + (", …" if len(new) > 4 else "")
            why = "has no such names and shapes" if fitting else "fits less than half of this model"
            print(f"lab4: warm start: {len(new)} of {len(own)} tensors begin at random ({which}): {self._file()} {why}",
                  file=sys.stderr)  # fmt: skip
        return {}

    def _fitting(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The file's tensors that have a place in the model."""
        where = f"warm_start strategy: weights {self._file()}"
        if (found := tensor_files.digest(self._file())) != self.digest:
            raise Lab4Error(f"{where}: content {found}: expected {self.digest}, which this run began with")
        own, (_, weights) = model.state_dict(), tensor_files.read(self._file())
        fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
        for name, value in fitting.items():
            if not torch.isfinite(value).all():
                raise Lab4Error(f"{where}: {name} holds a number that is not finite")
        fits, all_ = (sum(v.numel() for v in tensors.values()) for tensors in (fitting, own))
        return fitting if 2 * fits >= all_ else {}
