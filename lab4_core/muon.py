"""Muon: momentum whose update of each weight matrix is orthogonalised; AdamW for everything that is not a matrix.

Keller Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of the update, which
lets both halves share one learning rate, is that of Liu et al. 2025, arXiv 2502.16982, eq. 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

STEPS = 5  # of the iteration below; more make no difference to training
LINEAR = 3.4445  # its first coefficient


class Muon(torch.optim.Optimizer):
    """Every parameter of two or more dimensions is treated as a matrix (first, all the rest): a kernel (o, i, h, w) as
    (o, i h w), as the authors do. One whose first dimension is 1, like the compact model's weights per place, becomes a
    single row, whose orthogonalised update is its normalised momentum."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float, betas, weight_decay: float):
        parameters = list(parameters)
        groups = [{"params": [p for p in parameters if p.dim() >= 2], "matrices": True},
                  {"params": [p for p in parameters if p.dim() < 2], "matrices": False}]  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            updates = self._matrices(group) if group["matrices"] else self._vectors(group)
            for p, update in updates:
                # alpha= takes a Python number: a learning rate on a GPU would have to be read back
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update * group["lr"])

    def _vectors(self, group: dict) -> Iterator[tuple[Tensor, Tensor]]:
        for p in (p for p in group["params"] if p.grad is not None):
            yield p, _adam(p, self.state[p], group)

    def _matrices(self, group: dict) -> Iterator[tuple[Tensor, Tensor]]:
        """Matrices of equal shape are orthogonalised together: a model has many, of few shapes."""
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p in (p for p in group["params"] if p.grad is not None):
            momentum = _momentum(p, self.state[p], group).flatten(1)
            alike.setdefault(tuple(momentum.shape), []).append((p, momentum))
        for shape, pairs in alike.items():
            scale = 0.2 * max(shape) ** 0.5  # 0.2: the root mean square of Adam's updates
            updates = orthogonal(torch.stack([momentum for _, momentum in pairs])).mul_(scale)
            for (p, _), update in zip(pairs, updates):
                yield p, update.view_as(p)


def _momentum(p: Tensor, state: dict, group: dict) -> Tensor:
    """Nesterov's: the running mean of the gradients as it would be after one more step with the same gradient."""
    if not state:
        state["momentum"] = torch.zeros_like(p)
    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
    return p.grad.lerp(state["momentum"], group["momentum"])


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
    """About U V^T of each m (N, R, C) = U S V^T, with singular values between 0.7 and 1.2, by an iteration of matrix
    products alone (Newton-Schulz of degree 5 with the authors' coefficients).

    Under autocast it computes in bf16, as the authors do: rounding errs less than the iteration itself. In fp32 the
    same polynomials are evaluated on x x^T alone, which is small where a matrix is wide, as kernels are: less than half
    the work. That squares the singular values, for which bf16 has too few digits.
    """
    x = m.mT if m.shape[-2] > m.shape[-1] else m
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if torch.is_autocast_enabled(m.device.type):
        x = x.to(torch.get_autocast_dtype(m.device.type))
        for _ in range(STEPS):
            x = torch.baddbmm(x, _quadratic(x @ x.mT), x, beta=LINEAR)
    else:
        x = _product(x @ x.mT) @ x
    return (x.mT if m.shape[-2] > m.shape[-1] else x).to(m.dtype)


def _product(a: Tensor) -> Tensor:
    """What all steps of the iteration together multiply x by, from a = x x^T (N, R, R): a step takes x to p x, with a
    polynomial p of a, and so a to p a p."""
    product = None
    for step in range(STEPS):
        p = _quadratic(a)
        p.diagonal(dim1=-2, dim2=-1).add_(LINEAR)
        product = p if product is None else p @ product
        if step < STEPS - 1:
            a = p @ a @ p
    return product


def _quadratic(a: Tensor) -> Tensor:
    return torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
