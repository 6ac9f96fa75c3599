"""The VGG encoder and its mirror image, with skip connections between them (Denton and Fergus 2018, section 4).

Every 3x3 convolution is followed by BatchNorm and LeakyReLU(0.2). Training batches hold S steps of B frames, step
after step (`groups` = S): BatchNorm normalises each step by itself, as a loop over the steps would. fold: blocks of
fold x fold pixels enter as the channels of one place and replace the first stages: a narrow network wastes no time at
full resolution, and the vector still becomes a picture at the coarsest one.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab4_core.layers import StepBatchNorm2d

STAGES = (2, 2, 3, 3)  # convolutions in the stages at 1, 1/2, 1/4 and 1/8 of the resolution


def stages_of(fold: int, width: int) -> tuple[tuple[int, ...], list[int]]:
    """Convolutions and channels of the stages that are left when blocks of fold x fold pixels are folded."""
    counts = STAGES[fold.bit_length() - 1 :]
    return counts, [width * 2**i for i in range(len(counts))]


class Stage(nn.Module):
    """Convolutions at one resolution, each with BatchNorm and LeakyReLU."""

    def __init__(self, widths: list[int]):
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 3, padding=1) for i, o in pairs])
        self.norms = nn.ModuleList([StepBatchNorm2d(o) for _, o in pairs])

    def forward(self, x: Tensor, groups: int = 1) -> Tensor:
        return self.after_first(self.convs[0](x), groups)

    def after_first(self, x: Tensor, groups: int) -> Tensor:
        """The rest of the stage, from the output of its first convolution on."""
        for i, norm in enumerate(self.norms):
            x = norm_act(norm, self.convs[i](x) if i else x, groups)
        return x


def norm_act(norm: StepBatchNorm2d, x: Tensor, groups: int) -> Tensor:
    return F.leaky_relu(norm(x, groups), 0.2)


class Encoder(nn.Module):
    """(S * B, C, H, W) in [0, 1] -> vectors (S * B, g) in (-1, 1), and the skips: the frame itself, folded, then the
    features of each resolution."""

    def __init__(self, frame_shape: tuple[int, ...], width: int, g_dim: int, fold: int):
        super().__init__()
        channels, height, w = frame_shape
        self.fold = fold
        counts, widths = stages_of(fold, width)
        into = [channels * fold**2, *widths]
        self.stages = nn.ModuleList([Stage([i] + [o] * n) for i, o, n in zip(into, widths, counts)])
        self.last = nn.Conv2d(widths[-1], g_dim, (height // 16, w // 16))
        self.norm = StepBatchNorm2d(g_dim)

    def forward(self, x: Tensor, groups: int = 1) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = F.pixel_unshuffle(x, self.fold)
        skips = [x]
        for stage in self.stages:
            x = stage(x, groups)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        return torch.tanh(self.norm(self.last(x), groups)).flatten(1), tuple(skips)


class Decoder(nn.Module):
    """Vectors (S * B, g) and prepared skips -> frames (S * B, C, H, W) in (0, 1).

    The skip features are concatenated to the up-sampled ones. A convolution of two stacked images is the sum of one of
    each, so the skips' part is prepared once where many frames share it.
    mask: an extra output says how much of the new picture is used, mask x new + (1 - mask) x the skips' frame.
    """

    def __init__(self, frame_shape: tuple[int, ...], width: int, g_dim: int, fold: int, mask: bool):
        super().__init__()
        channels, height, w = frame_shape
        counts, widths = stages_of(fold, width)
        self.channels, self.fold, self.mask = channels, fold, mask
        self.first = nn.ConvTranspose2d(g_dim, widths[-1], (height // 16, w // 16))
        self.norm = StepBatchNorm2d(widths[-1])
        # coarse to fine; a stage hands on as many channels as the next one has, and `last` follows the finest
        handed_on = [[], *([c] for c in widths)]
        self.stages = nn.ModuleList(
            Stage([2 * widths[i]] + [widths[i]] * (counts[i] - 1) + handed_on[i]) for i in reversed(range(len(counts)))
        )
        self.last = nn.ConvTranspose2d(width, (channels + mask) * fold**2, 3, padding=1)

    def prepare(self, skips: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The encoder's skips of M frames as `forward` takes them: what the first convolution of each stage makes
        of them, coarse to fine, and with `mask` the frames themselves."""
        frame, *features = skips
        made = []
        for stage, x in zip(self.stages, reversed(features)):
            conv = stage.convs[0]
            made.append(F.conv2d(x, conv.weight[:, x.shape[1] :], conv.bias, padding=1))
        return (*made, frame) if self.mask else tuple(made)

    def forward(self, g: Tensor, prepared: tuple[Tensor, ...], groups: int = 1) -> Tensor:
        x = norm_act(self.norm, self.first(g[:, :, None, None]), groups)
        for stage, skip in zip(self.stages, prepared):
            x = F.interpolate(x, scale_factor=2)
            x = stage.after_first(F.conv2d(x, stage.convs[0].weight[:, : x.shape[1]], padding=1) + skip, groups)
        x = self.last(x)
        if self.mask:
            frame = prepared[-1]
            new, mask = x.to(frame.dtype).split([frame.shape[1], self.fold**2], dim=1)
            mask = torch.sigmoid(mask - 2).repeat(1, self.channels, 1, 1)  # starts near a copy
            return F.pixel_shuffle(torch.lerp(frame, torch.sigmoid(new), mask), self.fold)
        return F.pixel_shuffle(torch.sigmoid(x), self.fold)
