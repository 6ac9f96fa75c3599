"""A CVAE for two CPU cores: a U-Net on frames folded to half resolution, at a small fraction of the lab's FLOPs.

It differs from the lab's model in six ways, each an answer to a known failure of rollouts:
- down-sampling inside, and a latent of a few numbers at the coarsest scale, so z cannot carry the target's pixels;
- GroupNorm, whose statistics do not depend on the batch;
- a bounded output, mask x new colour + (1 - mask) x previous frame: what does not move is copied, not redrawn;
- a reference frame (the first one at test time) as a constant memory of what the person looks like, and the poses of
  the reference and of the previous frame: where the skeleton has not moved, pixels may stay;
- weights that belong to a place in the picture, among them the empty scene: what nobody hides is known, not guessed;
- a new colour that starts from the reference or, where a gate says that the person has left, from the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab4_core.layers import PreActBlock, norm_act
from lab4_core.models.base import ModelConfig
from lab4_core.models.frame_cvae import FrameCVAE
from lab4_core.registry import check, register

SCENE_SCALE = 10.0  # learning rates suit weights: this lets the scene's logits move faster, by this factor
DARKEST = 0.02  # black and white have no finite logit


class CompactCVAE(FrameCVAE):
    """Frames (C, H, W); pose images (3, H, W), three for each frame with a `pose_reach`; H and W multiples of 8."""

    needs_reference = True
    knows_scene = True
    sees_previous_cond = True

    def __init__(self, cfg: Compact, frame_shape: tuple[int, ...], cond_shape: tuple[int, ...]):
        super().__init__()
        channels, height, width = frame_shape
        w, fold = cfg.width, 4  # 2x2 pixels become 4 channels
        self.pose_gain = cfg.pose_gain
        if cfg.pose_reach:
            self.cond_offsets = (0, -cfg.pose_reach, cfg.pose_reach)
        poses = cond_shape[0] * len(self.cond_offsets)
        self.latent_shape = (cfg.z_dim, height // 8, width // 8)
        # a convolution of stacked images is the sum of one per image: the reference's is computed once, before the loop
        self.frame_stem = nn.Conv2d(channels * fold, w, 3, padding=1)
        self.pose_stem = nn.Conv2d(poses * fold, w, 3, padding=1)
        self.previous_pose_stem = nn.Conv2d(poses * fold, w, 3, padding=1, bias=False)
        self.reference_stem = nn.Conv2d((channels + poses) * fold, w, 3, padding=1, bias=False)
        self.place = nn.Parameter(torch.zeros(1, w, height // 2, width // 2))
        self.scene = nn.Parameter(torch.zeros(1, *frame_shape))  # logits of a colour / SCENE_SCALE
        widths = [w, 2 * w, 3 * w]
        self.down = nn.ModuleList(PreActBlock(i, o) for i, o in zip([w, *widths], widths))
        self.z_in = nn.Conv2d(cfg.z_dim, widths[2], 1)
        self.middle = nn.Sequential(*(PreActBlock(widths[2], widths[2]) for _ in range(cfg.depth)))
        self.lift = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in [(widths[2], widths[1]), (widths[1], w)])
        self.up = nn.ModuleList(PreActBlock(o, o) for o in (widths[1], w))
        self.head = nn.Sequential(norm_act(w), nn.Conv2d(w, (channels + 2) * fold, 3, padding=1))
        with torch.no_grad():  # an untrained model copies: mostly x_prev, and the reference where it does not
            self.head[-1].weight.mul_(0.1)
            self.head[-1].bias[-2 * fold : -fold].fill_(-2.0)
            self.head[-1].bias[-fold:].fill_(2.0)
        self.posterior_net = nn.Sequential(
            nn.Conv2d((channels + poses) * fold, w, 3, padding=1),
            norm_act(w), nn.Conv2d(w, w, 3, stride=2, padding=1),
            norm_act(w), nn.Conv2d(w, w, 3, stride=2, padding=1),
            norm_act(w), nn.Conv2d(w, 2 * cfg.z_dim, 1),
        )  # fmt: skip

    @torch.no_grad()
    def start_from(self, scene):
        self.scene.copy_(torch.logit(scene, DARKEST) / SCENE_SCALE)

    def empty_scene(self):
        return torch.sigmoid(SCENE_SCALE * self.scene[0].detach())

    def encode_cond(self, cond, groups=None):
        return fold_pose(cond, self.pose_gain)

    def encode_reference(self, frame, cond):
        seen = self.reference_stem(torch.cat([fold(frame), fold_pose(cond, self.pose_gain)], 1)) + self.place
        return seen, torch.logit(frame, DARKEST)

    def posterior(self, h, c):
        return self.posterior_net(torch.cat([fold(h), c], 1)).chunk(2, dim=1)

    def decode(self, x_prev, h, c, z, ref=None, c_prev=None):
        stem = self.frame_stem(fold(x_prev)) + self.pose_stem(c) + self.previous_pose_stem(c_prev)
        a = self.down[0](stem + ref[0])
        b = self.down[1](F.avg_pool2d(a, 2))
        m = self.middle(self.down[2](F.avg_pool2d(b, 2)) + self.z_in(z.to(b.dtype)))
        u = self.up[0](F.interpolate(self.lift[0](m), scale_factor=2) + b)
        u = self.up[1](F.interpolate(self.lift[1](u), scale_factor=2) + a)
        change, mask, gate = F.pixel_shuffle(self.head(u), 2).to(x_prev.dtype).split([x_prev.shape[1], 1, 1], dim=1)
        known = torch.lerp((SCENE_SCALE * self.scene).expand_as(ref[1]), ref[1], torch.sigmoid(gate))
        return torch.lerp(x_prev, torch.sigmoid(known + change), torch.sigmoid(mask))


def fold(x: Tensor) -> Tensor:
    """Frames (M, C, H, W) in [0, 1] -> (M, 4 C, H / 2, W / 2) in [-1, 1]."""
    return F.pixel_unshuffle(2 * x - 1, 2)


def fold_pose(cond: Tensor, gain: float) -> Tensor:
    """Pose images (M, C, H, W), skeletons drawn on white -> (M, 4 C, H / 2, W / 2), lines of up to `gain` on zero."""
    return F.pixel_unshuffle(gain * (1 - cond), 2)


@register("model", "compact")
@dataclass(frozen=True, kw_only=True)
class Compact(ModelConfig):
    """A U-Net CVAE for two CPU cores.

    width: channels at half resolution (twice and three times that below).  z_dim: channels of z at an eighth
    of the resolution, 4 x 8 places for 32 x 64 frames.  depth: blocks there.  pose_reach: the model also sees the poses
    that many frames before and after (0: neither): a fast limb is blurred along its path, and neighbours help where a
    skeleton was found a frame late or without an arm.  pose_gain: factor on pose images: their lines are a pixel wide,
    and next to dense frames a network is slow to learn to read them."""

    width: int = 32
    z_dim: int = 4
    depth: int = 1
    pose_reach: int = 0
    pose_gain: float = 1.0

    def __post_init__(self):
        check(self.width >= 8 and self.width % 8 == 0, "compact model: width", self.width, "a multiple of 8")
        check(self.z_dim >= 1, "compact model: z_dim", self.z_dim, "1 or more")
        check(self.depth >= 1, "compact model: depth", self.depth, "1 or more")
        check(self.pose_reach >= 0, "compact model: pose_reach", self.pose_reach, "0 frames or more")
        check(0 < self.pose_gain < math.inf, "compact model: pose_gain", self.pose_gain, "more than 0")

    def build(self, frame_shape, cond_shape):
        check(len(frame_shape) == 3 and all(s % 8 == 0 for s in frame_shape[1:]), "compact model: frames", frame_shape,
              "images (C, H, W) with H and W multiples of 8")  # fmt: skip
        check(len(cond_shape) == 3 and cond_shape[1:] == frame_shape[1:], "compact model: conditions", cond_shape,
              f"pose images (3, {frame_shape[1]}, {frame_shape[2]})")  # fmt: skip
        return CompactCVAE(self, frame_shape, cond_shape)
