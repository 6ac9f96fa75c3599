"""The lab's five modules with one to three convolutions each: trains in seconds, and fails as the lab's model fails.

For lessons and tests. As in the lab's, the latent has the resolution of the frame, so z can carry the target's pixels,
and the output is unbounded, so a rollout can drift; unlike the lab's, the output is added to the previous frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lab4_core.models.base import ModelConfig
from lab4_core.models.frame_cvae import FrameCVAE
from lab4_core.registry import check, register


class TinyCVAE(FrameCVAE):
    """Frames (C, H, W), pose images (3, H, W) of the same height and width."""

    def __init__(self, cfg: Tiny, channels: int, height: int, width: int):
        super().__init__()
        w, n = cfg.width, cfg.z_dim
        self.latent_shape = (n, height, width)
        self.frame_transformation = _encoder(channels, w)
        self.label_transformation = _encoder(3, w)
        self.Gaussian_Predictor = nn.Sequential(nn.Conv2d(2 * w, w, 3, padding=1), nn.SiLU(), nn.Conv2d(w, 2 * n, 1))
        self.Decoder_Fusion = nn.Sequential(nn.Conv2d(2 * w + n, w, 3, padding=1), nn.SiLU())
        self.Generator = nn.Sequential(_encoder(w, w), nn.SiLU(), nn.Conv2d(w, channels, 3, padding=1))

    def encode_frame(self, x):
        return self.frame_transformation(x)

    def encode_cond(self, cond, groups=None):
        return self.label_transformation(1 - cond)  # lines on zero: skeletons are drawn on white

    def posterior(self, h, c):
        return self.Gaussian_Predictor(torch.cat([h, c], 1)).chunk(2, dim=1)

    def decode(self, x_prev, h, c, z, ref=None, c_prev=None):
        return x_prev + self.Generator(self.Decoder_Fusion(torch.cat([h, c, z.to(h.dtype)], 1)))


def _encoder(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.SiLU(), nn.Conv2d(o, o, 3, padding=1))


@register("model", "tiny")
@dataclass(frozen=True, kw_only=True)
class Tiny(ModelConfig):
    """The lab's five modules in small.

    width: channels everywhere.  z_dim: channels of z, at the resolution of the frame."""

    width: int = 16
    z_dim: int = 2

    def __post_init__(self):
        check(self.width >= 1, "tiny model: width", self.width, "1 or more")
        check(self.z_dim >= 1, "tiny model: z_dim", self.z_dim, "1 or more")

    def build(self, frame_shape, cond_shape):
        check(len(frame_shape) == 3, "tiny model: frames", frame_shape, "images (C, H, W)")
        check(cond_shape == (3, *frame_shape[1:]), "tiny model: conditions", cond_shape,
              f"pose images (3, {frame_shape[1]}, {frame_shape[2]})")  # fmt: skip
        return TinyCVAE(self, *frame_shape)
