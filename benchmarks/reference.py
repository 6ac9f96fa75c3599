"""The plain loop, as the lab's template writes it: one frame at a time, NCHW, fp32, no tricks.

It is the oracle of the tests and the other side of every ratio in the benchmarks, so it stays slow and obvious.
It works on the weights of any `LabCVAE`, but runs none of its code: neither the paths for whole clips nor the blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain(module: nn.Module, x: Tensor) -> Tensor:
    """A block of the model, spelled out operation by operation."""
    match type(module).__name__:
        case "Sequential":
            for part in module:
                x = plain(part, x)
            return x
        case "ResidualBlock":
            h = F.leaky_relu(module.conv2(F.leaky_relu(module.conv1(x), 0.01)), 0.01)
            return h + module.skip(x)
        case "DepthConvBlock":
            return plain(module.block, x)
        case "DepthConv":
            h = F.leaky_relu(module.conv1[0](x), 0.01)
            return module.conv2(module.depth_conv(h)) + module.adaptor(x)
        case "ConvFFN":
            a, b = module.conv(x).chunk(2, 1)
            return module.conv_out(a * F.leaky_relu(b, 0.1)) + x
        case _:
            return module(x)  # a layer of torch's own


def batch_norm(norm: nn.BatchNorm2d, h: Tensor) -> Tensor:
    """Ordinary BatchNorm in training mode, running averages included."""
    norm.num_batches_tracked += 1
    return F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, norm.momentum, norm.eps)


def encode_label(model: nn.Module, label: Tensor) -> Tensor:
    pad, conv, norm, act, block = model.label_transformation
    return plain(block, act(batch_norm(norm, conv(pad(label)))))


def train_loss(model: nn.Module, frames: Tensor, labels: Tensor, eps: Tensor, beta: float, teacher_forcing: bool,
               detach: bool) -> Tensor:  # fmt: skip
    """The lab's loss of clips (B, T, …): MSE and KL summed over the predicted frames, with given noise."""
    batch, mse, kld = frames.shape[0], 0.0, 0.0
    x_prev = frames[:, 0]
    for t in range(1, frames.shape[1]):
        label = encode_label(model, labels[:, t])
        target = plain(model.frame_transformation, frames[:, t])
        mu, logvar = plain(model.Gaussian_Predictor, torch.cat([target, label], 1)).chunk(2, 1)
        z = mu + torch.exp(0.5 * logvar) * eps[:, t - 1]
        previous = plain(model.frame_transformation, x_prev)
        x = plain(model.Generator, plain(model.Decoder_Fusion, torch.cat([previous, label, z], 1)))
        mse = mse + F.mse_loss(x, frames[:, t])
        kld = kld - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / batch
        x_prev = frames[:, t] if teacher_forcing else (x.detach() if detach else x)
    return mse + beta * kld


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, frames: Tensor, labels: Tensor, eps: Tensor,
               beta: float, teacher_forcing: bool, detach: bool = True) -> float:  # fmt: skip
    """Forward, backward, clip at 1.0, update."""
    optimizer.zero_grad()
    loss = train_loss(model, frames, labels, eps, beta, teacher_forcing, detach)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def rollout(model: nn.Module, first: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """One clip, batch 1, one frame after the other: first (1, C, H, W), labels (1, T, …) -> (1, T - 1, C, H, W)."""
    x, frames = first, []
    for t in range(1, labels.shape[1]):
        label = encode_label(model, labels[:, t])
        z = torch.randn(1, *model.latent_shape, generator=generator, device=first.device)
        previous = plain(model.frame_transformation, x)
        x = plain(model.Generator, plain(model.Decoder_Fusion, torch.cat([previous, label, z], 1)))
        frames.append(x)
    return torch.stack(frames, 1)
