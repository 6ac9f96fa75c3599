"""The lab's pose CVAE, layer for layer: preset `lab`, 1,585,620 parameters at the default widths.

Everything runs at full resolution, and the latent is spatial: 12 x 32 x 64 = 24,576 numbers a frame. The five
modules have the names used in the lab's published checkpoints, whose tensors load without renaming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lab4_core.layers import DepthConvBlock, ResidualBlock, StepBatchNorm2d
from lab4_core.models.base import ModelConfig
from lab4_core.models.frame_cvae import FrameCVAE
from lab4_core.registry import check, register


class LabCVAE(FrameCVAE):
    """Frames (3, H, W), pose images (3, H, W); see `Lab` for the widths."""

    def __init__(self, cfg: Lab, height: int, width: int):
        super().__init__()
        f, label, n, d = cfg.f_dim, cfg.l_dim, cfg.n_dim, cfg.d_dim

        def encoder(width: int) -> list[nn.Module]:
            return [DepthConvBlock(width) for _ in range(cfg.encoder_depth)]

        def generator(width: int) -> list[nn.Module]:
            return [DepthConvBlock(width) for _ in range(cfg.generator_depth)]

        self.output, self.norm = cfg.output, cfg.norm
        self.latent_shape = (n, height, width)
        self.frame_transformation = nn.Sequential(
            ResidualBlock(3, f // 8), *encoder(f // 8),
            ResidualBlock(f // 8, f // 4), *encoder(f // 4),
            ResidualBlock(f // 4, f // 2), *encoder(f // 2),
            nn.Conv2d(f // 2, f, 3, padding=1),
        )  # fmt: skip
        self.label_transformation = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, label // 2, 7),
            StepBatchNorm2d(label // 2), nn.Identity(),  # the lab's LeakyReLU of slope 1.0, which is the identity
            ResidualBlock(label // 2, label),
        )  # fmt: skip
        self.Gaussian_Predictor = nn.Sequential(
            ResidualBlock(f + label, n // 4), DepthConvBlock(n // 4),
            ResidualBlock(n // 4, n // 2), DepthConvBlock(n // 2),
            ResidualBlock(n // 2, n), nn.Identity(),  # slope 1.0 again
            nn.Conv2d(n, 2 * n, 1),
        )  # fmt: skip
        i = f + label + n
        self.Decoder_Fusion = nn.Sequential(
            DepthConvBlock(i), ResidualBlock(i, i // 4),
            DepthConvBlock(i // 4, i // 2), ResidualBlock(i // 2, i // 2),
            DepthConvBlock(i // 2, d // 2), nn.Conv2d(d // 2, d, 1),
        )  # fmt: skip
        self.Generator = nn.Sequential(
            *generator(d), ResidualBlock(d, d // 2), *generator(d // 2), ResidualBlock(d // 2, d // 4),
            *generator(d // 4), ResidualBlock(d // 4, d // 8), *generator(d // 8), nn.Conv2d(d // 8, 3, 1),
        )  # fmt: skip

    def encode_frame(self, x):
        return self.frame_transformation(x)

    def encode_cond(self, cond, groups=None):
        pad, conv, norm, act, block = self.label_transformation
        h = conv(pad(cond))
        if self.training:
            h = norm(h, groups or len(cond))
        elif self.norm == "image":  # the lab's BatchNorm never leaves training mode: each image by its own statistics
            h = _normalize_each(h, norm)
        else:
            h = norm(h)
        return block(act(h))

    def posterior(self, h, c):
        return self.Gaussian_Predictor(torch.cat([h, c], 1)).chunk(2, dim=1)

    def decode(self, x_prev, h, c, z, ref=None, c_prev=None):
        x = self.Generator(self.Decoder_Fusion(torch.cat([h, c, z.to(h.dtype)], 1)))
        if self.output == "sigmoid":
            return torch.sigmoid(x)
        return x.clamp(0, 1) if self.output == "clamp" else x


def _normalize_each(h: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """BatchNorm of every image by its own mean and variance; the running averages stay untouched."""
    var, mean = torch.var_mean(h.float(), dim=(2, 3), correction=0, keepdim=True)
    scale = norm.weight.view(1, -1, 1, 1) * torch.rsqrt(var + norm.eps)
    return ((h.float() - mean) * scale + norm.bias.view(1, -1, 1, 1)).to(h.dtype)


@register("model", "lab")
@dataclass(frozen=True, kw_only=True)
class Lab(ModelConfig):
    """Widths and depths of the lab's five modules.

    f_dim, l_dim: channels of the frame and the pose features.  n_dim: channels of z.  d_dim: of the fused features.
    encoder_depth, generator_depth: DepthConvBlocks at each width of the frame encoder and the generator (the lab: 1).
    output: none (the lab: unbounded), sigmoid (report_003) or clamp.
    norm: BatchNorm at test time, by each pose image's own statistics (image: the mode the lab trains and tests in)
    or by running averages (running).
    """

    f_dim: int = 128
    l_dim: int = 32
    n_dim: int = 12
    d_dim: int = 192
    encoder_depth: int = 1
    generator_depth: int = 1
    output: Literal["none", "sigmoid", "clamp"] = "none"
    norm: Literal["image", "running"] = "image"

    def __post_init__(self):
        for name, factor in (("f_dim", 8), ("l_dim", 2), ("n_dim", 4), ("d_dim", 8)):
            value = getattr(self, name)
            check(value >= factor and value % factor == 0, f"lab model: {name}", value, f"a multiple of {factor}")
        for name in ("encoder_depth", "generator_depth"):
            check(getattr(self, name) >= 0, f"lab model: {name}", getattr(self, name), "0 blocks or more")
        check((self.f_dim + self.l_dim + self.n_dim) % 4 == 0, "lab model: f_dim + l_dim + n_dim",
              self.f_dim + self.l_dim + self.n_dim, "a multiple of 4")  # fmt: skip

    def build(self, frame_shape, cond_shape):
        check(len(frame_shape) == 3 and frame_shape[0] == 3, "lab model: frames", frame_shape, "RGB images (3, H, W)")
        check(cond_shape == frame_shape, "lab model: conditions", cond_shape, f"pose images {frame_shape}")
        return LabCVAE(self, *frame_shape[1:])
