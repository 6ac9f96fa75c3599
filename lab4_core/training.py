"""One training step, and everything it carries from one step to the next."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab4_core import accel, distributed, paths
from lab4_core.checkpoint import check_optimizer
from lab4_core.clock import Position
from lab4_core.config import Config
from lab4_core.data import Clips, VideoData
from lab4_core.data.windows import gather
from lab4_core.errors import Lab4Error
from lab4_core.evaluation import check_lengths
from lab4_core.graphs import Graphs, recordable
from lab4_core.models.base import VideoPredictor
from lab4_core.strategies import correction
from lab4_core.strategies.base import Strategy

NOISE, REFERENCE, JUMP, AUGMENT = 0xE95, 0x4EF, 0xBE6, 0xA46  # tags that keep draws for different ends apart


def build_model(cfg: Config, clips: Clips, device: torch.device) -> VideoPredictor:
    """The model a configuration asks for, its first weights drawn from `cfg.seed` alone; one that knows the scene
    starts from that of the clips."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        model = cfg.model.build(tuple(clips.frames.shape[1:]), tuple(clips.cond.shape[1:]))
    if model.knows_scene:
        model.start_from(clips.scene.cpu())
    return model.to(device, memory_format=torch.channels_last)


def generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator of its own for a key such as (tag, seed, step): no draw depends on the ones before it."""
    return seeded(torch.Generator(device), *key)


def seeded(rng: torch.Generator, *key: int) -> torch.Generator:
    """A generator there is already, at the beginning of a key's draws: a recorded step knows but one."""
    return rng.manual_seed(int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1))


@dataclass(frozen=True)
class Batch:
    """frames (B, T, C, H, W), cond (B, T, …), gt_weight (B, T - 1) with `forced` when it is 1 throughout and its
    mean over the inputs that could be predictions, reference frames (B, C, H, W) with their conditions or None, the
    first frames of the windows, and of each step whether its weights are all 1 (None: nobody has looked)."""

    frames: Tensor
    cond: Tensor
    gt_weight: Tensor
    forced: bool
    teacher_forced: float
    reference: tuple[Tensor, Tensor] | None
    starts: np.ndarray
    known: tuple[bool, ...] | None = None

    def rows(self, some: slice) -> Batch:
        """Some of the clips; what is said of the batch stays said of all of it."""
        reference = self.reference and tuple(v[some] for v in self.reference)
        return replace(self, frames=self.frames[some], cond=self.cond[some], gt_weight=self.gt_weight[some],
                       reference=reference)  # fmt: skip


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """What a recorded step is given of a batch."""
    names = {"frames": batch.frames, "cond": batch.cond, "gt_weight": batch.gt_weight}
    return names | (dict(zip(("reference", "reference_cond"), batch.reference)) if batch.reference else {})


def make_batch(cfg: Config, clips: Clips, at: Position, step: int, needs_reference: bool) -> Batch:
    """The batch of a step: a pure function of the seed and the position."""
    starts = at.windows.starts(at.pass_index, at.index)
    frames, cond = gather(clips, starts, cfg.n_frames)
    weight = cfg.teacher_forcing.gt_weight(cfg.seed, step, at.epoch, at.epochs, len(starts), cfg.n_frames - 1)
    weight[:, : cfg.n_past] = 1.0
    rng = np.random.default_rng([REFERENCE, cfg.seed, step])
    jumping = [s for s in cfg.strategies if s.jumps]
    # the clips, their reference frames, and the frames that some of them jump to: each (B, T, …) with its conditions
    parts = [(frames, cond), *(other_frame(clips, starts, rng) for _ in range(needs_reference + len(jumping)))]
    for strategy in (s for s in cfg.strategies if s.augments):
        draws = generator(frames.device, AUGMENT, cfg.seed, step)
        parts = augmented(strategy, parts, clips, at.step / at.steps, draws)
    (frames, cond), *parts = parts
    reference = tuple(x[:, 0] for x in parts.pop(0)) if needs_reference else None
    for strategy, other in zip(jumping, parts):
        jump, near = strategy.jump(len(starts), generator(frames.device, JUMP, cfg.seed, step))
        first = frames[:, 0], cond[:, 0]
        if reference is not None:
            reference = _choose(near, first, reference)
        frames[:, 0], cond[:, 0] = _choose(jump, (x[:, 0] for x in other), first)
    free = weight[:, cfg.n_past :]
    share = float(free.mean()) if free.size else 1.0
    gt_weight = torch.from_numpy(weight).to(frames.device)
    known = tuple((weight == 1).all(0).tolist())  # here, where no GPU has to be asked
    return Batch(frames, cond, gt_weight, all(known), share, reference, starts, known)


def check_sizes(cfg: Config, data: VideoData) -> None:
    """Raises `Lab4Error` for what would end a training late or without a word: validation clips with nothing to
    predict, and a batch that this machine's memory cannot hold (the system would kill a notebook's kernel)."""
    check_lengths(data.val, cfg, "val")
    values = data.train.frames[0].numel() + data.train.cond[0].numel()
    need, have = 4 * values * cfg.batch_size * cfg.n_frames, paths.free_memory()
    if need > have:
        raise Lab4Error(
            f"batch_size = {cfg.batch_size}, n_frames = {cfg.n_frames}: a batch of {need / 1e9:.1f} GB, expected less "
            f"than the {have / 1e9:.1f} GB of memory that are free; lower one of them"
        )


def other_frame(clips: Clips, starts: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """For each window a frame drawn from anywhere in the window's clip, (B, 1, C, H, W), its condition (B, 1, …)."""
    begins, ends = np.array(clips.spans).T
    clip = np.searchsorted(begins, starts, side="right") - 1
    return gather(clips, rng.integers(begins[clip], ends[clip]), 1)


def _choose(which: Tensor, a, b) -> tuple[Tensor, ...]:
    """For each clip the frame and the condition of a or of b."""
    return tuple(torch.where(which.view(-1, *[1] * (x.dim() - 1)), x, y) for x, y in zip(a, b))


def augmented(strategy, parts: list, clips: Clips, progress: float, rng: torch.Generator) -> list:
    """The parts of a batch, each frames (B, T, …) and conditions, as a strategy changes them: by draws of their own, or
    all alike."""
    if strategy.augments_apart:
        return [strategy.augment(*part, clips, progress, rng) for part in parts]
    whole = strategy.augment(*(torch.cat(x, 1) for x in zip(*parts)), clips, progress, rng)
    return list(zip(*(x.split([frames.shape[1] for frames, _ in parts], 1) for x in whole)))


class Learner:
    """The model, its optimizer and the strategies' memory: what a checkpoint holds of the computation."""

    def __init__(self, cfg: Config, model: VideoPredictor, device: torch.device):
        self.cfg, self.model, self.device = cfg, model, device
        accel.keep_freed_memory()
        self.dtype = accel.pick_precision(cfg.precision, device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = cfg.optimizer.build(self.parameters)
        self.memory = [s.start(model) for s in cfg.strategies]
        self._feeding = [s for s in cfg.strategies if s.feeds]
        self._correct = correction(cfg.strategies)
        self._unroll = distributed.averaging(model)
        self.rng = torch.Generator(device)  # of a step's noise and of what its strategies draw, seeded by the step
        self.graphs = self.make_graphs() if device.type == "cuda" else None

    def step(self, batch: Batch, step: int, beta: float, lr: float) -> dict[str, Tensor]:
        """Forward, backward, clip, update. Returns scalar tensors loss, mse, kld, grad_norm, not yet read back.

        With `skip_nonfinite` the loss and the gradient are read back, and where they are not finite nothing changes
        and `skipped` is returned too.
        """
        cfg, model = self.cfg, self.model
        seeded(self.rng, NOISE, cfg.seed, step)
        b, frames = batch.gt_weight.shape
        eps = torch.randn(b, frames, *model.latent_shape, generator=self.rng, device=self.device)
        if distributed.size() > 1:  # of one draw for the whole batch; what the strategies draw differs by process
            batch, eps = batch.rows(distributed.share(b)), eps[distributed.share(b)]
            seeded(self.rng, NOISE, cfg.seed, step, 1 + torch.distributed.get_rank())
        model.train()
        # tensors, not floats: a recorded step would freeze a float, and annealing would silently stop
        beta, rate = (torch.full((), value, device=self.device) for value in (beta, lr))
        if self.graphs is not None:
            terms = self.graphs(_tensors(batch) | {"eps": eps, "beta": beta, "lr": rate}, batch.forced)
        else:
            guard = cfg.skip_nonfinite > 0
            buffers = [b.clone() for b in model.buffers()] if guard else []
            terms = self._gradients(batch, eps, beta)
            if guard and not torch.isfinite(terms["loss"] + terms["grad_norm"]):
                for buffer, before in zip(model.buffers(), buffers):  # the forward pass moved the running statistics
                    buffer.copy_(before)
                return terms | {"skipped": torch.tensor(True)}
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self._update()
        for strategy, memory in zip(cfg.strategies, self.memory):
            strategy.after_step(model, memory, step)
        return terms

    def _gradients(self, batch: Batch, eps: Tensor, beta: Tensor) -> dict[str, Tensor]:
        """The gradients of a batch in the parameters, clipped, and the scalars of `step`."""
        cfg = self.cfg

        def feed(x_in: Tensor, x_last: Tensor) -> Tensor:
            for strategy in self._feeding:
                x_in = strategy.feed(x_in, x_last, self.rng)
            return x_in

        hooks = {"feed": feed} if self._feeding else {}
        if self._correct:
            hooks["correct"] = self._correct
        if self.model.splits:
            hooks |= self._path(batch, beta)
        self.optimizer.zero_grad(set_to_none=True)
        with ExitStack() as around:
            around.enter_context(accel.autocast(self.device, self.dtype))
            for strategy in cfg.strategies:
                around.enter_context(strategy.during(self.model, self.rng))
            out = self._unroll(
                batch.frames, batch.cond, batch.gt_weight, eps, cfg.n_past, detach=cfg.detach, forced=batch.forced,
                reference=batch.reference, **hooks,
            )  # fmt: skip
        terms = cfg.loss(out.x_pred, batch.frames[:, 1:], out.kld, out.mu[0, 0].numel(), beta)
        if terms["loss"].requires_grad:  # nothing is left to do where every piece has settled its share
            terms["loss"].backward()
        terms = distributed.mean(terms)
        terms["grad_norm"] = torch.nn.utils.clip_grad_norm_(self.parameters, cfg.grad_clip or float("inf"))
        return {name: value.detach() for name, value in terms.items()}

    def _update(self) -> None:
        with accel.autocast(self.device, self.dtype):  # an optimizer of matrix products takes the same arithmetic
            self.optimizer.step()

    def _path(self, batch: Batch, beta: Tensor) -> dict[str, Any]:
        """How this machine computes a clip fastest, the same mathematics in every case. A CPU goes backward step by
        step where it can: the graph of a step is small, and still in its caches. A GPU waits for launches, so it takes
        a third more of arithmetic (the inputs first, by a rollout) for one large batch."""
        if self.device.type != "cpu":
            return {"known": batch.known, "ahead": not self._draws_inside()}
        additive = getattr(self.cfg.loss, "sums_over_steps", False)
        if not additive or distributed.size() > 1:  # DistributedDataParallel knows one backward pass a step
            return {"known": batch.known}

        def settle(x_pred: Tensor, kld: Tensor, steps: slice) -> None:
            x, n_latent = batch.frames[:, 1:][:, steps], math.prod(self.model.latent_shape)
            with accel.no_autocast(self.device):
                self.cfg.loss(x_pred, x, kld, n_latent, beta)["loss"].backward()

        return {"known": batch.known, "settle": settle}

    def _draws_inside(self) -> bool:
        """Whether a strategy does something within the model, where two passes would be two draws."""
        return any(type(s).during is not Strategy.during for s in self.cfg.strategies)

    def make_graphs(self, capture: bool = True) -> Graphs | None:
        """The step as recordings, where nothing in it asks for a number and the optimizer can be one."""
        cfg = self.cfg
        if cfg.skip_nonfinite or distributed.size() > 1 or not cfg.optimizer.recordable:
            return None

        def body(given: dict[str, Tensor], forced: bool) -> dict[str, Tensor]:
            reference = (given["reference"], given["reference_cond"]) if "reference" in given else None
            batch = Batch(given["frames"], given["cond"], given["gt_weight"], forced, 0.0, reference, None)
            with recordable(self.optimizer):
                for group in self.optimizer.param_groups:
                    group["lr"] = given["lr"]
                terms = self._gradients(batch, given["eps"], given["beta"])
                self._update()
            return terms

        def state() -> list[Tensor]:
            memory = [v for values in self.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
            return [*self.model.parameters(), *self.model.buffers(), *memory]

        return Graphs(body, state, capture, self.rng)

    def end_epoch(self, epoch: int, epochs: int) -> None:
        """To be called after the last step of an epoch, before its evaluation."""
        for strategy, memory in zip(self.cfg.strategies, self.memory):
            strategy.after_epoch(self.model, memory, epoch, epochs)

    def eval_weights(self) -> dict[str, Tensor]:
        """The weights to evaluate: those of the last strategy that has some (EMA), else the trained ones."""
        for strategy, memory in reversed(list(zip(self.cfg.strategies, self.memory))):
            weights = strategy.eval_weights(memory)
            if weights is not None:
                return weights
        return self.model.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "memory": self.memory}

    def load_state_dict(self, state: dict[str, Any], where: str = "the state") -> None:
        """Raises `Lab4Error` that begins with `where` when the state is not one of this model and optimizer."""
        check_optimizer(self.optimizer, state.get("optimizer"), where)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.memory = state["memory"]
            if self.graphs is not None:
                self.graphs.forget()  # the optimizer has other tensors now
        except Exception as e:  # torch takes a tampered state apart without looking: it fails in any way there is
            raise Lab4Error(f"{where}: not a state of this model and optimizer ({e!r})") from e
