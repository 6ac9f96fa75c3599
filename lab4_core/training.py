"""One training step, and everything it carries from one step to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab4_core import accel
from lab4_core.clock import Position
from lab4_core.config import Config
from lab4_core.data import Clips
from lab4_core.data.windows import gather
from lab4_core.models.base import VideoPredictor

NOISE, REFERENCE, JUMP = 0xE95, 0x4EF, 0xBE6  # keep the draws of the noise, the references and the jumps apart


def build_model(cfg: Config, clips: Clips, device: torch.device) -> VideoPredictor:
    """The model a configuration asks for, its first weights drawn from `cfg.seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        model = cfg.model.build(tuple(clips.frames.shape[1:]), tuple(clips.cond.shape[1:]))
    return model.to(device, memory_format=torch.channels_last)


def generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator of its own for a key such as (tag, seed, step): no draw depends on the ones before it."""
    state = int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(state)


@dataclass(frozen=True)
class Batch:
    """frames (B, T, C, H, W), cond (B, T, …), gt_weight (B, T - 1) with `forced` when it is 1 throughout and its
    mean over the inputs that could be predictions, reference frames (B, C, H, W) with their conditions or None, and
    the first frames of the windows."""

    frames: Tensor
    cond: Tensor
    gt_weight: Tensor
    forced: bool
    teacher_forced: float
    reference: tuple[Tensor, Tensor] | None
    starts: np.ndarray


def make_batch(cfg: Config, clips: Clips, at: Position, step: int, needs_reference: bool) -> Batch:
    """The batch of a step: a pure function of the seed and the position."""
    starts = at.windows.starts(at.pass_index, at.index)
    frames, cond = gather(clips, starts, cfg.n_frames)
    weight = cfg.teacher_forcing.gt_weight(cfg.seed, step, at.epoch, at.epochs, len(starts), cfg.n_frames - 1)
    weight[:, : cfg.n_past] = 1.0
    rng = np.random.default_rng([REFERENCE, cfg.seed, step])
    reference = other_frame(clips, starts, rng) if needs_reference else None
    for strategy in (s for s in cfg.strategies if s.jumps):
        jump = strategy.jump(len(starts), generator(frames.device, JUMP, cfg.seed, step))
        for whole, other in zip((frames, cond), other_frame(clips, starts, rng)):
            whole[:, 0] = torch.where(jump.view(-1, *[1] * (other.dim() - 1)), other, whole[:, 0])
    free = weight[:, cfg.n_past :]
    share = float(free.mean()) if free.size else 1.0
    gt_weight = torch.from_numpy(weight).to(frames.device)
    return Batch(frames, cond, gt_weight, bool((weight == 1).all()), share, reference, starts)


def other_frame(clips: Clips, starts: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """For each window a frame drawn from anywhere in the window's clip, (B, C, H, W), and its condition (B, …)."""
    begins, ends = np.array(clips.spans).T
    clip = np.searchsorted(begins, starts, side="right") - 1
    frame, cond = gather(clips, rng.integers(begins[clip], ends[clip]), 1)
    return frame[:, 0], cond[:, 0]


class Learner:
    """The model, its optimizer and the strategies' memory: what a checkpoint holds of the computation."""

    def __init__(self, cfg: Config, model: VideoPredictor, device: torch.device):
        self.cfg, self.model, self.device = cfg, model, device
        self.dtype = accel.pick_precision(cfg.precision, device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = cfg.optimizer.build(self.parameters)
        self.memory = [s.start(model) for s in cfg.strategies]
        self._feeding = [s for s in cfg.strategies if s.feeds]

    def step(self, batch: Batch, step: int, beta: float, lr: float) -> dict[str, Tensor]:
        """Forward, backward, clip, update. Returns scalar tensors loss, mse, kld, grad_norm, not yet read back."""
        cfg, model = self.cfg, self.model
        rng = generator(self.device, NOISE, cfg.seed, step)
        b, frames = batch.gt_weight.shape
        eps = torch.randn(b, frames, *model.latent_shape, generator=rng, device=self.device)

        def feed(x_in: Tensor, x_last: Tensor) -> Tensor:
            for strategy in self._feeding:
                x_in = strategy.feed(x_in, x_last, rng)
            return x_in

        model.train()
        with accel.autocast(self.device, self.dtype):
            out = model.unroll(
                batch.frames, batch.cond, batch.gt_weight, eps, cfg.n_past, detach=cfg.detach, forced=batch.forced,
                reference=batch.reference, feed=feed if self._feeding else None,
            )  # fmt: skip
        n_latent = out.mu[0, 0].numel()
        # a tensor, not a float: a captured graph would freeze a float, and annealing would silently stop
        terms = cfg.loss(out.x_pred, batch.frames[:, 1:], out.kld, n_latent, torch.tensor(beta, device=self.device))
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        limit = cfg.grad_clip or float("inf")
        terms["grad_norm"] = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        for strategy, memory in zip(cfg.strategies, self.memory):
            strategy.after_step(model, memory, step)
        return {name: value.detach() for name, value in terms.items()}

    def eval_weights(self) -> dict[str, Tensor]:
        """The weights to evaluate: those of the last strategy that has some (EMA), else the trained ones."""
        for strategy, memory in reversed(list(zip(self.cfg.strategies, self.memory))):
            weights = strategy.eval_weights(memory)
            if weights is not None:
                return weights
        return self.model.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "memory": self.memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.memory = state["memory"]
