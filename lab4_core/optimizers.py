"""Optimizers by name, with default learning rates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lab4_core.muon import Muon
from lab4_core.registry import check, register


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """`lr` is the learning rate that the schedule multiplies."""

    lr: float = 1e-3
    recordable = False  # whether its step can be part of a CUDA graph, with a learning rate that is a tensor

    def __post_init__(self):
        check(self.lr > 0, "optimizer lr", self.lr, "more than 0")
        for name in ("beta1", "beta2", "alpha", "momentum"):
            value = getattr(self, name, 0.0)
            check(0 <= value < 1, f"optimizer {name}", value, "a factor in [0, 1)")
        decay = getattr(self, "weight_decay", 0.0)
        check(decay >= 0, "optimizer weight_decay", decay, "0 or more")

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        raise NotImplementedError


@register("optimizer", "adam")
@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), the lab's optimizer."""

    beta1: float = 0.9
    beta2: float = 0.999
    recordable = True

    def build(self, parameters):
        return torch.optim.Adam(parameters, lr=self.lr, betas=(self.beta1, self.beta2), fused=True)


@register("optimizer", "adamw")
@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01
    recordable = True

    def build(self, parameters):
        return torch.optim.AdamW(
            parameters, lr=self.lr, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay, fused=True
        )


@register("optimizer", "rmsprop")
@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012, lecture 6), which report_002 proposes for comparison."""

    alpha: float = 0.99
    momentum: float = 0.0

    def build(self, parameters):
        return torch.optim.RMSprop(parameters, lr=self.lr, alpha=self.alpha, momentum=self.momentum)


@register("optimizer", "sgd")
@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    lr: float = 0.1
    momentum: float = 0.9

    def build(self, parameters):
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)


@register("optimizer", "muon")
@dataclass(frozen=True, kw_only=True)
class MuonAdamW(Optimizer):
    """Muon for the kernels, AdamW for biases and norms (Jordan et al. 2024; see `muon.py`), with one learning rate, of
    a size usual for AdamW, for both."""

    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01
    recordable = True

    def build(self, parameters):
        return Muon(parameters, self.lr, self.momentum, (self.beta1, self.beta2), self.weight_decay)
