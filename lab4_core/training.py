"""One training step, and everything it carries from one step to the next."""

from __future__ import annotations

import math
import weakref
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from lab4_core import accel, distributed
from lab4_core.batches import NOISE, Batch, seeded
from lab4_core.checkpoint import check_optimizer, plan_of
from lab4_core.config import Config
from lab4_core.data import Clips
from lab4_core.errors import Lab4Error
from lab4_core.graphs import Graphs, recordable
from lab4_core.models.base import VideoPredictor
from lab4_core.strategies import correction
from lab4_core.strategies.base import Strategy


def build_model(cfg: Config, clips: Clips, device: torch.device) -> VideoPredictor:
    """The model of a configuration, with initial weights drawn from `cfg.seed` alone unless a strategy provides them. A
    model that knows the scene starts from that of the clips."""
    shapes = [tuple(v.shape[1:]) for v in (clips.frames, clips.cond)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(cfg.seed)  # of the CPU alone: a GPU's generators are the user's
        model = cfg.model.build(*shapes)
    plan_of(cfg.model, shapes, f"model {cfg.model.kind}")  # else its weights could never be loaded again
    for strategy in cfg.strategies:
        strategy.initialize(model)
    if model.knows_scene:
        model.start_from(clips.scene.cpu())
    return model.to(device, memory_format=torch.channels_last)


class Learner:
    """The model, its optimizer and the strategies' memory: the part of the computation that a checkpoint holds."""

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
        self.rng = torch.Generator(device)  # for the noise of a step and its strategies' draws, seeded by the step
        self.graphs = self.make_graphs() if accel.records(device) else None

    def step(self, batch: Batch, step: int, beta: float, lr: float) -> dict[str, Tensor]:
        """Forward, backward, clip, update. Returns scalar tensors loss, mse, kld, grad_norm, not yet read back.

        With `skip_nonfinite` the loss and the gradient's norm are read back; if they are not finite, nothing changes
        and `skipped` is returned too.
        """
        cfg, model = self.cfg, self.model
        seeded(self.rng, NOISE, cfg.seed, step)
        b, frames = batch.gt_weight.shape
        eps = torch.randn(b, frames, *model.latent_shape, generator=self.rng, device=self.device)
        if distributed.size() > 1:  # one eps drawn for the whole batch; strategies' draws differ between processes
            batch, eps = batch.rows(distributed.share(b)), eps[distributed.share(b)]
            seeded(self.rng, NOISE, cfg.seed, step, 1 + torch.distributed.get_rank())
        model.train()
        # tensors, not floats: a recorded step would freeze a float, and annealing would silently stop
        beta, rate = (torch.full((), value, device=self.device) for value in (beta, lr))
        if self.graphs is not None:
            terms = self.graphs(batch.tensors() | {"eps": eps, "beta": beta, "lr": rate}, batch.forced)
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
        """Leave a batch's clipped gradients in the parameters, and return the scalars of `step`."""
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
        if terms["loss"].requires_grad:  # else every piece has settled its share
            terms["loss"].backward()
        terms = distributed.mean(terms)
        terms["grad_norm"] = torch.nn.utils.clip_grad_norm_(self.parameters, cfg.grad_clip or float("inf"))
        return {name: value.detach() for name, value in terms.items()}

    def _update(self) -> None:
        with accel.autocast(self.device, self.dtype):  # Muon's matrix products use the same arithmetic
            self.optimizer.step()

    def _path(self, batch: Batch, beta: Tensor) -> dict[str, Any]:
        """Arguments for the fastest way to compute a clip here, the same mathematics in every case. A CPU runs the
        backward pass step by step where it can: the graph of a step is small, and still in its caches. A GPU is
        launch-bound, so it does a third more arithmetic (finding the inputs first, by a rollout) for one large batch.
        """
        if self.device.type != "cpu":
            draws_inside = any(type(s).during is not Strategy.during for s in self.cfg.strategies)
            return {"known": batch.known, "ahead": not draws_inside}  # two passes would make different draws
        additive = self.cfg.loss.sums_over_steps
        if not additive or distributed.size() > 1:  # DistributedDataParallel allows one backward pass per step
            return {"known": batch.known}

        def settle(x_pred: Tensor, kld: Tensor, steps: slice) -> None:
            x, n_latent = batch.frames[:, 1:][:, steps], math.prod(self.model.latent_shape)
            with torch.autocast("cpu", enabled=False):  # in the tensors' own types
                self.cfg.loss(x_pred, x, kld, n_latent, beta)["loss"].backward()

        return {"known": batch.known, "settle": settle}

    def make_graphs(self, capture: bool = True) -> Graphs | None:
        """The step as recordings, if nothing in it reads a number back and the optimizer can be recorded; else None."""
        cfg = self.cfg
        if cfg.skip_nonfinite or distributed.size() > 1 or not cfg.optimizer.recordable:
            return None

        learner = weakref.proxy(self)  # a reference cycle would keep a finished run's memory until collected

        def body(given: dict[str, Tensor], forced: bool) -> dict[str, Tensor]:
            reference = (given["reference"], given["reference_cond"]) if "reference" in given else None
            batch = Batch(given["frames"], given["cond"], given["gt_weight"], forced, 0.0, reference, None)
            with recordable(learner.optimizer):
                for group in learner.optimizer.param_groups:
                    group["lr"] = given["lr"]
                terms = learner._gradients(batch, given["eps"], given["beta"])
                learner._update()
            return terms

        def state() -> list[Tensor]:
            memory = [v for of in learner.optimizer.state.values() for v in of.values() if isinstance(v, Tensor)]
            return [*learner.model.parameters(), *learner.model.buffers(), *memory]

        return Graphs(body, state, capture, self.rng)

    def end_epoch(self, epoch: int, epochs: int) -> None:
        """To be called after the last step of an epoch, before its evaluation."""
        for strategy, memory in zip(self.cfg.strategies, self.memory):
            strategy.after_epoch(self.model, memory, epoch, epochs)

    def eval_weights(self) -> dict[str, Tensor]:
        """The weights to evaluate: those of the last strategy that has its own (such as EMA), else the trained ones."""
        for strategy, memory in reversed(list(zip(self.cfg.strategies, self.memory))):
            weights = strategy.eval_weights(memory)
            if weights is not None:
                return weights
        return self.model.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "memory": self.memory}

    def load_state_dict(self, state: dict[str, Any], where: str = "the state") -> None:
        """Raises a `Lab4Error` that begins with `where` when the state is not one of this model and optimizer."""
        check_optimizer(self.optimizer, state.get("optimizer"), where)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.memory = state["memory"]
            if self.graphs is not None:
                self.graphs.forget()  # the optimizer has new tensors now
        except Exception as e:  # torch does not check a state: a tampered one can fail in any way
            raise Lab4Error(f"{where}: not a state of this model and optimizer ({e!r})") from e
