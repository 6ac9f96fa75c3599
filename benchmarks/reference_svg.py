"""The plain loop of the BAIR model, as the lab's template and the paper write it: one frame at a time, an LSTM cell
at a time, the skips concatenated.

It is the oracle of tests/test_svg.py, so it stays slow and obvious. It works on the weights of any `SVG` with
the sigmoid output, but runs none of its code paths for whole clips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from reference import batch_norm
from torch import Tensor, nn


def stage(module: nn.Module, x: Tensor) -> Tensor:
    for conv, norm in zip(module.convs, module.norms):
        x = F.leaky_relu(batch_norm(norm, conv(x)), 0.2)
    return x


def encode(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    skips = []
    for module in model.encoder.stages:
        x = stage(module, x)
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = batch_norm(model.encoder.norm, model.encoder.last(x))
    return torch.tanh(x).flatten(1), skips


def decode(model: nn.Module, g: Tensor, skips: list[Tensor]) -> Tensor:
    decoder = model.decoder
    x = F.leaky_relu(batch_norm(decoder.norm, decoder.first(g.view(*g.shape, 1, 1))), 0.2)
    for module, skip in zip(decoder.stages, reversed(skips)):
        x = stage(module, torch.cat([F.interpolate(x, scale_factor=2), skip], 1))
    return torch.sigmoid(decoder.last(x))


class Cells:
    """The LSTM layers of a `Recurrent`, one step at a time."""

    def __init__(self, recurrent: nn.Module, batch: int):
        lstm = recurrent.lstm
        zero = torch.zeros(batch, lstm.hidden_size, dtype=recurrent.embed.weight.dtype)
        self.embed, self.state = recurrent.embed, [(zero, zero)] * lstm.num_layers
        self.weights = [[getattr(lstm, f"{n}_l{i}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                        for i in range(lstm.num_layers)]  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for i, (w_ih, w_hh, b_ih, b_hh) in enumerate(self.weights):
            hidden, cell = self.state[i]
            gates = x @ w_ih.T + b_ih + hidden @ w_hh.T + b_hh
            enter, forget, new, leave = gates.chunk(4, 1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            x = leave.sigmoid() * cell.tanh()
            self.state[i] = x, cell
        return x


def train_loss(model: nn.Module, frames: Tensor, cond: Tensor, eps: Tensor, beta: float, gt_weight: Tensor,
               n_past: int, detach: bool) -> Tensor:  # fmt: skip
    """The loss of clips (B, T, …): MSE and KL summed over the predicted frames, with given noise.

    gt_weight (B, T - 1): share of the truth in each input frame from n_past on.
    """
    batch, mse, kld = frames.shape[0], torch.zeros(()), torch.zeros(())
    posterior, predictor = Cells(model.posterior.lstm, batch), Cells(model.frame_predictor.lstm, batch)
    prior = Cells(model.prior.lstm, batch) if model.prior is not None else None
    true = [encode(model, frames[:, t]) for t in range(frames.shape[1])]
    forced, x, kept = bool((gt_weight == 1).all()), None, None
    for t in range(1, frames.shape[1]):
        h, skips = true[t - 1]
        if t > n_past and not forced:
            w = gt_weight[:, t - 1].view(-1, 1, 1, 1)
            h, skips = encode(model, w * frames[:, t - 1] + (1 - w) * (x.detach() if detach else x))
        if model.cfg.last_frame_skip or t <= n_past:
            kept = skips
        y = posterior(true[t][0])
        mu, logvar = model.posterior.mu(y), model.posterior.logvar(y)
        mu_p, logvar_p = torch.zeros_like(mu), torch.zeros_like(mu)
        if prior is not None:
            y = prior(h)
            mu_p, logvar_p = model.prior.mu(y), model.prior.logvar(y)
        z = mu + torch.exp(0.5 * logvar) * eps[:, t - 1]
        c = (cond[:, t - 1] - model.cond_mean) / model.cond_std
        g = model.frame_predictor.out(predictor(torch.cat([h, z, c], 1)))
        if model.frame_predictor.norm is not None:
            g = batch_norm(model.frame_predictor.norm, g)
        x = decode(model, torch.tanh(g), kept)
        mse = mse + F.mse_loss(x, frames[:, t])
        sigma, sigma_p = torch.exp(0.5 * logvar), torch.exp(0.5 * logvar_p)  # as the paper's code writes the KL
        kld = kld + (torch.log(sigma_p / sigma) + (logvar.exp() + (mu - mu_p) ** 2) / (2 * logvar_p.exp()) - 0.5).sum()
    return mse + beta * kld / batch
