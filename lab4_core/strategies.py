"""Training strategies beside the loss and the schedules: each one a part that hooks into the training step.

A strategy is configuration; what it must remember lies in a dict of tensors that the checkpoint keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lab4_core.registry import check, register


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Hooks, each of which does nothing unless overridden. `feeds` says that `feed` changes the model's inputs,
    `jumps` that `jump` may come out true."""

    feeds = False
    jumps = False

    def start(self, model: nn.Module) -> dict[str, Tensor]:
        """What the strategy remembers, before the first step."""
        return {}

    def jump(self, clips: int, rng: torch.Generator) -> Tensor:
        """(B,) bool: the training clips whose first frame and condition come from elsewhere in the clip."""
        return torch.zeros(clips, dtype=torch.bool, device=rng.device)

    def feed(self, x_in: Tensor, x_last: Tensor, rng: torch.Generator) -> Tensor:
        """The frame the model is about to see as its input (M, C, H, W) in [0, 1]; x_last is the input before it."""
        return x_in

    def after_step(self, model: nn.Module, state: dict[str, Tensor], step: int) -> None:
        """Called after the optimizer's step number `step`, counted from 0."""

    def eval_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Weights to evaluate and keep instead of the trained ones, or None."""
        return None


@register("strategy", "ema")
@dataclass(frozen=True, kw_only=True)
class EMA(Strategy):
    """Evaluate an exponential moving average of the weights (Polyak and Juditsky 1992; the warm-up
    (1 + t) / (10 + t) is the field's habit, so a short run is not held back by its first weights)."""

    decay: float = 0.998

    def __post_init__(self):
        check(0 < self.decay < 1, "ema strategy: decay", self.decay, "a factor in (0, 1)")

    def start(self, model):
        return {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def after_step(self, model, state, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                state[name].lerp_(value, 1 - decay)
            else:
                state[name].copy_(value)

    def eval_weights(self, state):
        return state


@register("strategy", "input_noise")
@dataclass(frozen=True, kw_only=True)
class InputNoise(Strategy):
    """Corrupt the input frames the way rollouts corrupt them, so that the model learns to mend and not to
    trust them: white noise, and a shift of brightness and contrast that is one draw a frame.

    Standard deviations in units of the image range [0, 1]. Half the frames stay as they are.
    """

    noise: float = 0.02
    brightness: float = 0.03
    contrast: float = 0.05
    feeds = True

    def __post_init__(self):
        for name in ("noise", "brightness", "contrast"):
            check(0 <= getattr(self, name) <= 1, f"input_noise strategy: {name}", getattr(self, name), "in [0, 1]")

    def feed(self, x_in, x_last, rng):
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng, device=x_in.device)

        m = x_in.shape[0]
        keep = torch.rand((m, 1, 1, 1), generator=rng, device=x_in.device) < 0.5
        gain = 1 + self.contrast * normal(m, 1, 1, 1)
        worse = (x_in - 0.5) * gain + 0.5 + self.brightness * normal(m, 1, 1, 1) + self.noise * normal(*x_in.shape)
        return torch.where(keep, x_in, worse.clamp(0, 1))


@register("strategy", "distant_start")
@dataclass(frozen=True, kw_only=True)
class DistantStart(Strategy):
    """Begin a share of the training clips with a frame from elsewhere in the clip.

    From one frame to the next hardly anything moves, so a model soon copies the person and never learns to draw one.
    After a jump copying fails, and the pose has to be read; rollouts that have gone wrong are mended the same way.
    """

    share: float = 0.5
    jumps = True

    def __post_init__(self):
        check(0 <= self.share <= 1, "distant_start strategy: share", self.share, "in [0, 1]")

    def jump(self, clips, rng):
        return torch.rand(clips, generator=rng, device=rng.device) < self.share
