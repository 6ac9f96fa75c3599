"""Muon: momentum whose update of each weight matrix is made orthogonal; AdamW for everything that is no matrix.

Keller Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of the update, which
lets both halves share one learning rate, is that of Liu et al. 2025, arXiv 2502.16982, eq. 4.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

STEPS = 5  # of the iteration below; more change nothing that the training would notice


class Muon(torch.optim.Optimizer):
    """Convolution kernels (o, i, h, w) are taken as matrices (o, i h w), as the authors do."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float, betas, weight_decay: float):
        parameters = list(parameters)
        groups = [{"params": [p for p in parameters if p.dim() >= 2], "matrices": True},
                  {"params": [p for p in parameters if p.dim() < 2], "matrices": False}]  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                update = _muon(p, state, group) if group["matrices"] else _adam(p, state, group)
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update)


def _muon(p: Tensor, state: dict, group: dict) -> Tensor:
    if not state:
        state["momentum"] = torch.zeros_like(p)
    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
    nesterov = p.grad.lerp(state["momentum"], group["momentum"])
    matrix = orthogonal(nesterov.flatten(1))
    return (0.2 * max(matrix.shape) ** 0.5 * matrix).view_as(p)  # 0.2: the root mean square of Adam's updates


def _adam(p: Tensor, state: dict, group: dict) -> Tensor:
    if not state:
        state.update(step=torch.zeros((), device=p.device), first=torch.zeros_like(p), second=torch.zeros_like(p))
    b1, b2 = group["betas"]
    state["step"] += 1
    state["first"].lerp_(p.grad, 1 - b1)
    state["second"].lerp_(p.grad.square(), 1 - b2)
    first, second = state["first"] / (1 - b1 ** state["step"]), state["second"] / (1 - b2 ** state["step"])
    return first / (second.sqrt() + 1e-8)


def orthogonal(m: Tensor) -> Tensor:
    """About U V^T of m (R, C) = U S V^T, singular values between 0.7 and 1.2, by an iteration of nothing but products
    (Newton-Schulz of degree 5 with the coefficients of the authors)."""
    x = m.T if m.shape[0] > m.shape[1] else m
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if m.shape[0] > m.shape[1] else x
