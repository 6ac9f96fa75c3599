"""Stochastic video generation with actions: the lab's BAIR model (Denton and Fergus 2018, arXiv 1802.07687).

Prediction happens on vectors: an encoder maps each frame to g numbers, LSTMs predict the next vector, a decoder draws
it. What a vector cannot hold, the picture of the scene, bypasses it through skip connections from a given frame. While
the input frames are known, so are the LSTMs' inputs, and a teacher-forced clip runs as one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lab4_core import distributed
from lab4_core.layers import Recurrent, StepBatchNorm2d
from lab4_core.losses import gaussian_kld, reparameterize
from lab4_core.models.base import ModelConfig, Unrolled, VideoPredictor
from lab4_core.models.vgg import Decoder, Encoder
from lab4_core.registry import check, register

LSTMState = tuple[Tensor, Tensor]  # hidden and cell, (layers, B, width) each


class GaussianLSTM(nn.Module):
    """LSTM_phi and LSTM_psi of the paper: vectors (S, B, g) -> mu and logvar (S, B, z), and the state after them."""

    def __init__(self, g_dim: int, z_dim: int, width: int, layers: int):
        super().__init__()
        self.lstm = Recurrent(g_dim, width, layers)
        self.mu, self.logvar = nn.Linear(width, z_dim), nn.Linear(width, z_dim)

    def forward(self, h: Tensor, state: LSTMState | None = None) -> tuple[Tensor, Tensor, LSTMState]:
        y, state = self.lstm(h, state)
        return self.mu(y), self.logvar(y).clamp(-20, 20), state  # exp stays finite: 0 x KL is 0 and not NaN


class FramePredictor(nn.Module):
    """LSTM_theta of the paper: [h, z, condition] (S, B, g + z + k) -> the next frame's vector (S * B, g) in (-1, 1).

    norm: BatchNorm before the tanh, as in the lab's template; the paper has only the tanh.
    """

    def __init__(self, i: int, g_dim: int, width: int, layers: int, norm: bool):
        super().__init__()
        self.lstm = Recurrent(i, width, layers)
        self.out = nn.Linear(width, g_dim)
        self.norm = StepBatchNorm2d(g_dim) if norm else None

    def forward(self, x: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        y, state = self.lstm(x, state)
        g = self.out(y).flatten(0, 1)
        if self.norm is not None:
            g = self.norm(g[:, :, None, None], groups=len(x))[:, :, 0, 0]
        return torch.tanh(g), state


class State(NamedTuple):
    """The state of a rollout between two frames."""

    cond: Tensor  # (B, k) of the last frame
    skip: tuple[Tensor, ...]  # the frozen skips as the decoder prepares them; () if they are not frozen
    prior: LSTMState | None  # None with the fixed prior
    predictor: LSTMState | None  # None before the first step


class SVG(VideoPredictor):
    """Frames (C, H, W), H and W multiples of 16; conditions (k,) numbers.

    The condition of frame t - 1, the action taken there and where the arm was, goes into the prediction of frame t.
    """

    least_batch = 2  # BatchNorm takes its statistics over the batch

    def __init__(self, cfg: Svg, frame_shape: tuple[int, ...], k: int):
        super().__init__()
        self.cfg, self.latent_shape = cfg, (cfg.z_dim,)
        self.encoder = Encoder(frame_shape, cfg.width, cfg.g_dim, cfg.fold)
        self.decoder = Decoder(frame_shape, cfg.width, cfg.g_dim, cfg.fold, cfg.output == "mask")
        self.posterior = GaussianLSTM(cfg.g_dim, cfg.z_dim, cfg.rnn_size, cfg.posterior_layers)
        learned = cfg.prior == "learned"
        self.prior_name = "learned prior, noise" if learned else "N(0, I)"
        self.prior = GaussianLSTM(cfg.g_dim, cfg.z_dim, cfg.rnn_size, cfg.posterior_layers) if learned else None
        i = cfg.g_dim + cfg.z_dim + k
        self.frame_predictor = FramePredictor(i, cfg.g_dim, cfg.rnn_size, cfg.predictor_layers, cfg.norm == "batch")
        self.register_buffer("cond_mean", torch.tensor(cfg.cond_mean or [0.0]).expand(k).clone())
        self.register_buffer("cond_std", torch.tensor(cfg.cond_std or [1.0]).expand(k).clone())
        self.apply(_initialize)

    def encode_cond(self, cond):
        return (cond - self.cond_mean) / self.cond_std

    def unroll(
        self, frames, cond, gt_weight, eps, n_past=1, *,
        detach=True, forced=False, reference=None, feed=None, correct=None,
    ):  # fmt: skip
        b, steps = frames.shape[0], frames.shape[1] - 1
        whole = b * distributed.size()
        check(whole > 1, "svg model: batch of clips", whole, "2 or more: BatchNorm takes its statistics over the batch")
        x = frames.transpose(0, 1)  # (T, B, C, H, W)
        c = self.encode_cond(cond[:, :-1].transpose(0, 1))
        h, skips = self.encoder(x.flatten(0, 1), groups=steps + 1)
        mu, logvar, _ = self.posterior(h.unflatten(0, (-1, b))[1:])
        z = reparameterize(mu, logvar, eps.transpose(0, 1))

        # steps whose input frames are known run as one sequence: all of them, or those up to the last given frame
        known = steps if forced else min(n_past, steps)
        x_in = x[:known].flatten(0, 1)
        if feed is None:
            h, skips = h[: known * b], tuple(s[: known * b] for s in skips)
        else:
            x_in = feed(x_in, torch.cat([x[:1], x[: known - 1]]).flatten(0, 1))
            h, skips = self.encoder(x_in, groups=known)
        skip = self._skips_of_past(skips, known, b, n_past)
        prior, h = self._prior(h.unflatten(0, (known, b)), None), h.unflatten(0, (known, b))
        g, predictor = self.frame_predictor(torch.cat([h, z[:known], c[:known]], -1))
        x_pred = self.decoder(g, skip, groups=known).to(x.dtype)
        out, of_prior, frozen, x_last = [x_pred], [prior], tuple(s[-b:] for s in skip), x_in[-b:]
        for t in range(known, steps):
            back = x_pred[-b:].detach() if detach else x_pred[-b:]
            back = correct(back, x_last) if correct else back
            x_in = torch.lerp(back, x[t], gt_weight[:, t].view(b, 1, 1, 1).to(back.dtype))
            if feed is not None:
                x_in = feed(x_in, x_last)
            h, skips = self.encoder(x_in)
            skip = self.decoder.prepare(skips) if self.cfg.last_frame_skip else frozen
            of_prior.append(self._prior(h[None], of_prior[-1]))
            g, predictor = self.frame_predictor(torch.cat([h[None], z[t : t + 1], c[t : t + 1]], -1), predictor)
            x_pred, x_last = self.decoder(g, skip).to(x.dtype), x_in
            out.append(x_pred)
        wide = torch.promote_types(mu.dtype, torch.float32)
        of_prior = () if self.prior is None else (torch.cat(v).to(wide) for v in zip(*[p[:2] for p in of_prior]))
        kld = gaussian_kld(mu.to(wide), logvar.to(wide), *of_prior).sum(-1)
        x_pred = torch.cat(out).unflatten(0, (steps, b))
        return Unrolled(*(v.transpose(0, 1) for v in (x_pred, kld, mu, logvar)))

    def _skips_of_past(self, skips: tuple[Tensor, ...], steps: int, b: int, n_past: int) -> tuple[Tensor, ...]:
        """The prepared skips for a sequence of steps from known frames: each step's own or, unless `last_frame_skip`,
        from frame n_past - 1 on, the last given one, always that frame's."""
        if self.cfg.last_frame_skip or steps <= n_past:
            return self.decoder.prepare(skips)
        given = self.decoder.prepare(tuple(s[: n_past * b] for s in skips))
        return tuple(torch.cat([s, s[-b:].repeat(steps - n_past, 1, 1, 1)]) for s in given)

    def _prior(self, h: Tensor, before):
        """(mu, logvar, state) of the learned prior from input frames' vectors (S, B, g); None with the fixed one."""
        return None if self.prior is None else self.prior(h, None if before is None else before[2])

    def init_state(self, frames_past, cond_past):
        """For the given frames after the first, z is the posterior's mean: they are known."""
        b, n = frames_past.shape[:2]
        h, skips = self.encoder(frames_past.transpose(0, 1).flatten(0, 1))
        h, c = h.unflatten(0, (n, b)), self.encode_cond(cond_past.transpose(0, 1))
        prior = predictor = None
        if n > 1:
            z, _, _ = self.posterior(h[1:])
            _, predictor = self.frame_predictor(torch.cat([h[:-1], z, c[:-1]], -1))
            prior = None if self.prior is None else self.prior(h[:-1])[2]
        skip = () if self.cfg.last_frame_skip else self.decoder.prepare(tuple(s[-b:] for s in skips))
        return State(c[-1], skip, prior, predictor)

    def step(self, x_prev, cond_t, z_t, state):
        h, skips = self.encoder(x_prev)
        prior, z = state.prior, z_t
        if self.prior is not None:
            mu, logvar, prior = self.prior(h[None], prior)
            z = reparameterize(mu[0], logvar[0], z_t)
        g, predictor = self.frame_predictor(torch.cat([h, z, state.cond], -1)[None], state.predictor)
        x = self.decoder(g, state.skip or self.decoder.prepare(skips)).to(x_prev.dtype)
        return x, State(cond_t, state.skip, prior, predictor)


def _initialize(m: nn.Module) -> None:
    """As in the paper: weights from N(0, 0.02), those of BatchNorm from N(1, 0.02); LSTMs as PyTorch has them."""
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(m.weight, 0, 0.02)
        nn.init.zeros_(m.bias)
    elif isinstance(m, nn.BatchNorm2d):
        nn.init.normal_(m.weight, 1, 0.02)


@register("model", "svg")
@dataclass(frozen=True, kw_only=True)
class Svg(ModelConfig):
    """Stochastic video generation with actions. Defaults are the lab's: 22.2 million parameters.

    width: channels of the first VGG stage (doubled in each one below).  g_dim, z_dim: sizes of a frame's vector
    and of z.  rnn_size: width of the LSTMs; posterior_layers (the learned prior's too) and predictor_layers: how many.
    prior: fixed N(0, I), or learned from the past frames (SVG-LP).  last_frame_skip: skips from every input frame,
    not frozen at the last given one (Denton's code freezes them a frame earlier).  norm: BatchNorm before the
    frame predictor's tanh (batch, the lab) or none (the paper).  output: sigmoid (the lab), or mask, which is mask x
    new colour + (1 - mask) x the skips' frame, so that the untrained model copies.  fold: blocks of fold x fold pixels
    enter and leave as channels; each doubling replaces a VGG stage.
    cond_mean, cond_std: conditions enter as (c - mean) / std; one number for all, or one each.
    """

    conditions = "actions"

    width: int = 64
    g_dim: int = 128
    z_dim: int = 64
    rnn_size: int = 256
    posterior_layers: int = 1
    predictor_layers: int = 2
    prior: Literal["fixed", "learned"] = "fixed"
    last_frame_skip: bool = False
    norm: Literal["batch", "none"] = "batch"
    output: Literal["sigmoid", "mask"] = "sigmoid"
    fold: int = 1
    cond_mean: tuple[float, ...] = ()
    cond_std: tuple[float, ...] = ()

    def __post_init__(self):
        for name in ("width", "g_dim", "z_dim", "rnn_size", "posterior_layers", "predictor_layers"):
            check(getattr(self, name) >= 1, f"svg model: {name}", getattr(self, name), "1 or more")
        check(self.fold in (1, 2, 4, 8), "svg model: fold", self.fold, "1, 2, 4 or 8")
        check(all(s > 0 for s in self.cond_std), "svg model: cond_std", self.cond_std, "numbers above 0")

    def build(self, frame_shape, cond_shape):
        check(len(frame_shape) == 3 and all(s % 16 == 0 for s in frame_shape[1:]), "svg model: frames", frame_shape,
              "images (C, H, W) with H and W multiples of 16")  # fmt: skip
        check(len(cond_shape) == 1, "svg model: conditions", cond_shape,
              "numbers (k,), as the data kinds robot and bair have them")  # fmt: skip
        for name in ("cond_mean", "cond_std"):
            n = len(getattr(self, name))
            check(n in (0, 1, cond_shape[0]), f"svg model: {name}", getattr(self, name), f"1 or {cond_shape[0]} values")
        return SVG(self, frame_shape, cond_shape[0])
