"""The blocks the models are made of. Sub-module names are those of the lab's published checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lab4_core import distributed


class ResidualBlock(nn.Module):
    """(N, i, H, W) -> (N, o, H, W): 3x3, LeakyReLU, 3x3, LeakyReLU, + skip. No norm, nothing after the sum."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, padding=1)
        self.conv2 = nn.Conv2d(o, o, 3, padding=1)
        self.skip = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv1(x), inplace=True)
        h = F.leaky_relu(self.conv2(h), inplace=True)
        # in place into the 1x1's output, which no backward pass needs; an identity's is x itself, which is not ours
        return h + x if isinstance(self.skip, nn.Identity) else self.skip(x).add_(h)


class DepthConv(nn.Module):
    """(N, i, H, W) -> (N, o, H, W): 1x1, LeakyReLU, depthwise 3x3, 1x1, + identity (1x1 where i != o)."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(i, i, 1), nn.LeakyReLU(0.01, inplace=True))
        self.depth_conv = nn.Conv2d(i, i, 3, padding=1, groups=i)
        self.conv2 = nn.Conv2d(i, o, 1)
        self.adaptor = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.depth_conv(self.conv1(x))).add_(self.adaptor(x))


class ConvFFN(nn.Module):
    """(N, c, H, W) -> the same: 1x1 to 4c, one half gates the other, 1x1 back, + identity."""

    def __init__(self, c: int):
        super().__init__()
        self.conv = nn.Conv2d(c, 4 * c, 1)
        self.conv_out = nn.Conv2d(2 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return GatedConv.apply(self.conv(x), self.conv_out.weight, self.conv_out.bias).add_(x)


class GatedConv(torch.autograd.Function):
    """A 1x1 convolution of a * LeakyReLU_0.1(b), with a, b the halves of the channels: (N, 2c, H, W) -> (N, o, H, W).

    The result is that of the plain expression, but no intermediate is copied or kept (the backward pass recomputes
    the product): these are the widest tensors of the lab's model, and moving them costs as much as its matrix products.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        a, b = x.chunk(2, dim=1)
        return F.conv2d(F.leaky_relu(b, 0.1).mul_(a), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        a, b = x.chunk(2, dim=1)
        of_x = torch.empty_like(x)  # both gradients are written straight into it
        of_a, of_b = of_x.chunk(2, dim=1)
        product = torch.ops.aten.leaky_relu.out(b, 0.1, out=of_a) * a
        grad, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad, product, weight.to(x.dtype), [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True] * 3
        )
        of_a.mul_(grad)
        torch.ops.aten.leaky_relu_backward.grad_input(grad, b, 0.1, False, grad_input=of_b).mul_(a)
        return of_x, of_weight, of_bias


class DepthConvBlock(nn.Module):
    """DepthConv, then ConvFFN."""

    def __init__(self, i: int, o: int | None = None):
        super().__init__()
        self.block = nn.Sequential(DepthConv(i, o or i), ConvFFN(o or i))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class StepBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalises several steps at once, each by its own statistics.

    The lab's loop calls BatchNorm once per step, on the B images of that step. Here the S*B images of all steps
    come in one call, step after step, and the result is the same: statistics per group of B, and the running
    averages as if the steps had come one after another, in closed form:

        r_S = (1 - m)^S r_0 + m sum_s (1 - m)^(S-1-s) stat_s
    """

    def forward(self, x: Tensor, groups: int = 1) -> Tensor:
        """x: (groups * B, C, H, W), group after group. In eval mode the running averages are used and
        `groups` does not matter."""
        if not self.training:
            return super().forward(x)
        if x.device.type == "cpu" and distributed.size() == 1:  # memory-bound: group by group, nothing is moved
            return torch.cat([super(StepBatchNorm2d, self).forward(group) for group in x.chunk(groups)])
        return self.at_once(x, groups)  # launch-bound: one call for all groups

    def at_once(self, x: Tensor, groups: int) -> Tensor:
        n, c, h, w = x.shape
        apart = x.reshape(groups, n // groups, c, h, w).transpose(0, 1).reshape(n // groups, groups * c, h, w)
        weight, bias = self.weight.repeat(groups), self.bias.repeat(groups)
        if distributed.size() > 1:
            y = self._over_processes(apart, weight, bias, groups)
        else:
            y = F.batch_norm(apart, None, None, weight, bias, training=True, eps=self.eps)
            var, mean = torch.var_mean(apart.detach().float(), dim=(0, 2, 3), correction=1)
            self._update_running(mean, var, groups)
        return y.reshape(n // groups, groups, c, h, w).transpose(0, 1).reshape(n, c, h, w)

    def _over_processes(self, apart: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        """The same, with each step's statistics taken over its images in all processes."""
        wide = apart.float()
        count = distributed.size() * wide[:, 0].numel()
        mean = distributed.total(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        var = distributed.total(centred.square().sum((0, 2, 3))) / count
        self._update_running(mean.detach(), var.detach() * count / (count - 1), groups)
        y = centred * (weight * torch.rsqrt(var + self.eps))[:, None, None] + bias[:, None, None]
        return y.to(apart.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, groups: int) -> None:
        """mean, var (groups * C,) of the steps, var with Bessel's correction."""
        m = self.momentum
        decay = (1 - m) ** torch.arange(groups - 1, -1, -1, dtype=mean.dtype, device=mean.device)
        for running, stat in ((self.running_mean, mean), (self.running_var, var)):
            new = m * (decay[:, None] * stat.view(groups, -1)).sum(0)
            running.mul_((1 - m) ** groups).add_(new)
        self.num_batches_tracked += groups


def norm_act(c: int) -> nn.Sequential:
    """GroupNorm and SiLU: a normalisation that does not depend on the batch, so a rollout of one clip sees the
    statistics that training saw.

    Groups of 16 channels (a size in table 3 of Wu and He 2018, arXiv 1803.08494), or the next larger size that
    divides c: with fewer channels than a vector register holds, the CPU's channels-last kernel is five times slower.
    """
    groups = next(g for g in range(max(1, c // 16), 0, -1) if c % g == 0)
    return nn.Sequential(nn.GroupNorm(groups, c), nn.SiLU())


class PreActBlock(nn.Module):
    """(N, i, H, W) -> (N, o, H, W): norm, SiLU, 3x3, norm, SiLU, 3x3, + skip (He et al. 2016, arXiv 1603.05027).

    The last convolution starts at zero, so the block starts as its skip.
    """

    def __init__(self, i: int, o: int):
        super().__init__()
        self.body = nn.Sequential(
            norm_act(i), nn.Conv2d(i, o, 3, padding=1), norm_act(o), nn.Conv2d(o, o, 3, padding=1)
        )
        self.skip = nn.Conv2d(i, o, 1) if i != o else nn.Identity()
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class Recurrent(nn.Module):
    """(S, B, i) -> (S, B, o): a linear embedding, then `layers` LSTM layers over the S steps. The state is
    (hidden, cell), each (layers, B, o); None starts from zeros."""

    def __init__(self, i: int, o: int, layers: int):
        super().__init__()
        self.embed = nn.Linear(i, o)
        self.lstm = nn.LSTM(o, o, layers)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None):
        if not x.is_cuda:
            return self.lstm(self.embed(x), state)
        with torch.autocast("cuda", enabled=False):  # under autocast, cuDNN's LSTMs compute in fp16 even for bf16
            return self.lstm(self.embed(x.to(self.embed.weight.dtype)), state)
