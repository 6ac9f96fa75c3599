"""What a training step works on: clips, teacher-forcing weights and reference frames, as changed by the strategies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lab4_core import distributed, paths
from lab4_core.clock import Clock, Position
from lab4_core.config import Config
from lab4_core.data import Clips, VideoData
from lab4_core.data.store import on_device
from lab4_core.data.windows import gather
from lab4_core.errors import Lab4Error
from lab4_core.evaluation import check_lengths
from lab4_core.models.base import VideoPredictor

NOISE, REFERENCE, JUMP, AUGMENT = 0xE95, 0x4EF, 0xBE6, 0xA46  # tags that make draws for different purposes independent


def generator(device: torch.device, *key: int) -> torch.Generator:
    """A new generator for a key such as (tag, seed, step), so that its draws do not depend on any earlier ones."""
    return seeded(torch.Generator(device), *key)


def seeded(rng: torch.Generator, *key: int) -> torch.Generator:
    """An existing generator, reseeded for a key: a recorded step is tied to one generator object."""
    return rng.manual_seed(int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1))


@dataclass(frozen=True)
class Batch:
    """frames (B, T, C, H, W), cond (B, T, …), gt_weight (B, T - 1). forced: gt_weight is 1 throughout.
    teacher_forced: its mean over the inputs that could be predictions. reference: frames (B, C, H, W) and their
    conditions. starts: the first frame of each window. known: for each step, whether its weights are all 1 (None:
    not determined)."""

    frames: Tensor
    cond: Tensor
    gt_weight: Tensor
    forced: bool
    teacher_forced: float
    reference: tuple[Tensor, Tensor] | None
    starts: np.ndarray
    known: tuple[bool, ...] | None = None

    def rows(self, some: slice) -> Batch:
        """Some of the clips; the other fields still describe the whole batch."""
        reference = self.reference and tuple(v[some] for v in self.reference)
        return replace(self, frames=self.frames[some], cond=self.cond[some], gt_weight=self.gt_weight[some],
                       reference=reference)  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a recorded step takes as inputs."""
        names = {"frames": self.frames, "cond": self.cond, "gt_weight": self.gt_weight}
        return names | (dict(zip(("reference", "reference_cond"), self.reference)) if self.reference else {})


def make_batch(
    cfg: Config, clips: Clips, at: Position, step: int, needs_reference: bool, cond_offsets: Sequence[int] = (0,)
) -> Batch:
    """The batch of a step: a pure function of the seed, the step and its position."""
    starts = at.windows.starts(at.pass_index, at.index)
    frames, cond = gather(clips, starts, cfg.n_frames, cond_offsets)
    weight = cfg.teacher_forcing.gt_weight(cfg.seed, step, at.epoch, at.epochs, len(starts), cfg.n_frames - 1)
    weight[:, : cfg.n_past] = 1.0
    rng = np.random.default_rng([REFERENCE, cfg.seed, step])
    jumping = [s for s in cfg.strategies if s.jumps]
    # the clips, their reference frames, and the frames that some of them jump to: each (B, T, …) with its conditions
    parts = [
        (frames, cond),
        *(other_frame(clips, starts, rng, cond_offsets) for _ in range(needs_reference + len(jumping))),
    ]
    draws = generator(frames.device, AUGMENT, cfg.seed, step)  # one for all strategies: their draws are independent
    for strategy in (s for s in cfg.strategies if s.augments):
        parts = augmented(strategy, parts, clips, at.step / at.steps, draws)
    (frames, cond), *parts = parts
    reference = tuple(x[:, 0] for x in parts.pop(0)) if needs_reference else None
    draws = generator(frames.device, JUMP, cfg.seed, step)
    for strategy, other in zip(jumping, parts):
        jump, near = strategy.jump(len(starts), draws)
        first = frames[:, 0], cond[:, 0]
        if reference is not None:
            reference = _choose(near, first, reference)
        frames[:, 0], cond[:, 0] = _choose(jump, (x[:, 0] for x in other), first)
    free = weight[:, cfg.n_past :]
    share = float(free.mean()) if free.size else 1.0
    gt_weight = on_device(weight, frames.device)
    known = tuple((weight == 1).all(0).tolist())  # read here, on the CPU, without waiting for a GPU
    return Batch(frames, cond, gt_weight, all(known), share, reference, starts, known)


def check_ahead(cfg: Config, data: VideoData, model: VideoPredictor, clock: Clock) -> None:
    """Raises `Lab4Error` now for what would otherwise end training late or silently: validation clips with nothing to
    predict, a last batch of a pass too small for the model, and a batch too large for this machine's memory (the
    system would kill a notebook's kernel). Warns on stderr if annealing keeps beta at 0 throughout."""
    check_lengths(data.val, cfg, "val")
    smallest = min(clock.full.smallest_batch, clock.fast.smallest_batch)
    if smallest < model.least_batch:
        raise Lab4Error(
            f"batch_size = {cfg.batch_size}: the last batch of a pass holds {smallest}, and this model is trained on "
            f"{model.least_batch} clips or more; expected another size, or windows = random"
        )
    values = data.train.frames[0].numel() + data.train.cond[0].numel() * len(model.cond_offsets)
    need, have = 4 * values * cfg.batch_size * cfg.n_frames, paths.free_memory()
    if need > have:
        raise Lab4Error(
            f"batch_size = {cfg.batch_size}, n_frames = {cfg.n_frames}: a batch of {need / 1e9:.1f} GB, expected less "
            f"than the {have / 1e9:.1f} GB of memory that are free; lower one of them"
        )
    if cfg.beta and getattr(cfg.annealing, "stop", 1) and not clock.peak(cfg.annealing) and distributed.leads():
        unit = cfg.annealing.unit
        print(f"lab4: beta is 0 throughout this run: {cfg.annealing.kind} annealing counts in {unit}s, too few here to "
              f"rise; expected fewer cycles{', more epochs or annealing.unit = step' if unit == 'epoch' else ''}",
              file=sys.stderr)  # fmt: skip


def other_frame(
    clips: Clips, starts: np.ndarray, rng: np.random.Generator, cond_offsets: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """For each window, a random frame of the clip it lies in, (B, 1, C, H, W), and its condition (B, 1, …)."""
    begins, ends = np.array(clips.spans).T
    clip = np.searchsorted(begins, starts, side="right") - 1
    return gather(clips, rng.integers(begins[clip], ends[clip]), 1, cond_offsets)


def _choose(which: Tensor, a, b) -> tuple[Tensor, ...]:
    """For each clip, the frame and condition of a where `which` is true, else of b."""
    return tuple(torch.where(which.view(-1, *[1] * (x.dim() - 1)), x, y) for x, y in zip(a, b))


def augmented(strategy, parts: list, clips: Clips, progress: float, rng: torch.Generator) -> list:
    """The parts of a batch, each (frames (B, T, …), conditions), as changed by a strategy: all by the same draws, or
    with `augments_apart` each by its own."""
    if strategy.augments_apart:
        return [strategy.augment(*part, clips, progress, rng) for part in parts]
    whole = strategy.augment(*(torch.cat(x, 1) for x in zip(*parts)), clips, progress, rng)
    return list(zip(*(x.split([frames.shape[1] for frames, _ in parts], 1) for x in whole)))
