"""Training a run, from its configuration to its result: the loop, its log, its checkpoints."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lab4_core import accel, checkpoint, runlog
from lab4_core.clock import Clock, Position
from lab4_core.config import Config
from lab4_core.data import VideoData, load_data
from lab4_core.errors import Lab4Error
from lab4_core.evaluation import score_model
from lab4_core.models.base import count_parameters
from lab4_core.paths import runs_dir
from lab4_core.progress import Progress
from lab4_core.runlog import Run
from lab4_core.scores import Score
from lab4_core.trackers import Trackers
from lab4_core.training import Learner, build_model, make_batch

LOG_EVERY = 10  # optimizer steps between "step" records, and between looks at the loss on a GPU
SAVE_SECONDS = 60  # a long epoch is saved on the way
TERMS = ("loss", "mse", "kld", "grad_norm")


def train(
    cfg: Config,
    out: str | os.PathLike | None = None,
    resume: str = "auto",
    data: VideoData | None = None,
    loggers: tuple[str, ...] = (),
) -> Run:
    """Load or train: the finished run of this configuration and data if there is one, else train it.

    resume: "auto" goes on from the last checkpoint, "never" forgets it and begins anew. loggers: "tensorboard",
    "wandb" (offline). Ctrl-C (or the notebook's stop button) and SIGTERM end the run after the current step,
    saved, and the partial run is returned; calling again goes on. Raises `Lab4Error` for whatever the user can put
    right, a loss that is not finite among it: the run is then marked as failed with the reason.
    """
    if resume not in ("auto", "never"):
        raise Lab4Error(f"resume = {resume!r}: expected 'auto' or 'never'")
    data = data or load_data(cfg)
    run = runlog.create(runs_dir(out) / f"{cfg.name}-{cfg.fingerprint(data.digest)}", cfg)
    with runlog.owning(run):
        if resume == "never":
            runlog.reset(run)
        if run.finished:
            return run
        try:
            return _Training(cfg, data, run, loggers).fit()
        except torch.OutOfMemoryError as e:
            reason = f"out of memory on {cfg.device}: lower batch_size = {cfg.batch_size} or n_frames = {cfg.n_frames}"
            run.write_result({"status": "failed", "reason": reason})
            raise Lab4Error(reason) from e
        except Lab4Error as e:
            run.write_result({"status": "failed", "reason": str(e)})
            raise


class _Training:
    """A run in the making. What is not in `learner` or in the fields saved by `save` is a pure function of them."""

    def __init__(self, cfg: Config, data: VideoData, run: Run, loggers: tuple[str, ...]):
        self.cfg, self.data, self.run = cfg, data, run
        self.device = accel.pick_device(cfg.device)
        self.train_clips = _to(data.train, self.device)
        self.clock = Clock(cfg, data.train.spans)
        self.learner = Learner(cfg, build_model(cfg, data.train, self.device), self.device)
        self.eval_model = build_model(cfg, data.train, self.device)
        self.trackers = Trackers(loggers, run)
        self.step, self.seconds = 0, 0.0
        self.best: dict[str, Any] = {"psnr": -math.inf, "epoch": -1}
        self.sums = {"step": _zeros(), "epoch": _zeros()}
        log_size = self.restore()
        self.log = runlog.MetricsFile(run.dir / "metrics.jsonl", log_size)
        self.saved_at = time.monotonic()

    def restore(self) -> int:
        """Take up the last checkpoint, if there is one. Returns the size of the metrics file it belongs to."""
        path = self.run.dir / "last.pt"
        if not path.is_file():
            return 0
        state = checkpoint.load(path, self.device)
        try:
            self.learner.load_state_dict(state["learner"])
            self.step, self.seconds, self.best, self.sums = (state[k] for k in ("step", "seconds", "best", "sums"))
            return state["log_size"]
        except (KeyError, RuntimeError, ValueError) as e:
            raise Lab4Error(f"checkpoint {path}: not one of this run ({e}); resume='never' begins anew") from e

    def save(self) -> None:
        state = {"learner": self.learner.state_dict(), "step": self.step, "seconds": self.seconds, "best": self.best,
                 "sums": self.sums, "log_size": self.log.size}  # fmt: skip
        checkpoint.save(self.run.dir / "last.pt", state)
        self.saved_at = time.monotonic()

    def save_weights(self, path: Path, psnr: float, epoch: int) -> None:
        weights = self.learner.eval_weights()
        shapes = self.data.train.frames.shape[1:], self.data.train.cond.shape[1:]
        checkpoint.save(path, checkpoint.weights_file(self.cfg.to_dict()["model"], weights, *shapes, psnr, epoch))

    def fit(self) -> Run:
        progress = Progress(self.cfg.name)
        begun = time.monotonic() - self.seconds
        with _stop_requests() as stop_requested:
            while at := self.clock.at(self.step, self.seconds):
                self.one_step(at)
                self.seconds = time.monotonic() - begun
                after = self.clock.at(self.step, self.seconds)
                progress.update(self.clock.fraction(self.step, self.seconds), f"epoch {at.epoch + 1}/{at.epochs}")
                if after is None or after.epoch != at.epoch:
                    self.end_epoch(at, progress, last=after is None)
                    self.seconds = time.monotonic() - begun
                    if after is None or (at.epoch + 1) % self.cfg.save_every == 0:
                        self.save()
                if stop_requested():
                    self.save()
                    self.log.close()
                    progress.close("stopped; the same call goes on from here")
                    self.run.write_result(self.result("partial", reason=f"stopped after {self.step} steps"))
                    return self.run
                if time.monotonic() - self.saved_at > SAVE_SECONDS:
                    self.save()
        self.finish(progress)
        return self.run

    def one_step(self, at: Position) -> None:
        cfg = self.cfg
        beta, lr = cfg.beta * at.of(cfg.annealing), cfg.optimizer.lr * at.of(cfg.lr_schedule)
        batch = make_batch(cfg, self.train_clips, at, self.step, self.learner.model.needs_reference)
        terms = self.learner.step(batch, self.step, beta, lr)
        self.step += 1
        values = {name: terms[name] for name in TERMS}
        if self.device.type == "cpu" or self.step % LOG_EVERY == 0:
            self.check_finite(values, beta, batch.starts)
        tfr = cfg.teacher_forcing.ratio_at(at.epoch, at.epochs)
        known = {"beta": beta, "lr": lr, "tfr": tfr, "teacher_forced": batch.teacher_forced}
        for sums in self.sums.values():
            sums["n"] += 1
            for name, value in (values | known).items():
                sums[name] = sums.get(name, 0.0) + value
        if self.step % LOG_EVERY == 0:
            self.record("step", at.epoch)

    def check_finite(self, values: dict[str, torch.Tensor], beta: float, starts: Any) -> None:
        numbers = {name: float(v) for name, v in values.items()}
        if not all(math.isfinite(v) for v in numbers.values()):
            said = ", ".join(f"{k} = {v:.4g}" for k, v in numbers.items())
            raise Lab4Error(
                f"the loss is not finite at step {self.step}: {said}, beta = {beta:.4g}, windows at frames "
                f"{[int(s) for s in starts]}; expected finite numbers. Lower optimizer.lr or grad_clip, or raise "
                "annealing.start. The last good state is kept in last.pt and best.pt"
            )

    def record(self, kind: str, epoch: int) -> dict[str, Any]:
        """The means since the last record of this kind, logged and forgotten."""
        sums = self.sums[kind]
        n = max(1, sums.pop("n"))
        entry = {"kind": kind, "epoch": epoch, "step": self.step, **{k: float(v) / n for k, v in sums.items()},
                 "seconds": round(self.seconds, 2)}  # fmt: skip
        self.sums[kind] = _zeros()
        self.log.append(entry)
        self.trackers.log(entry)
        return entry

    def end_epoch(self, at: Position, progress: Progress, last: bool) -> None:
        entry = self.record("epoch", at.epoch)
        text = "epoch {:>3}/{}  loss {loss:.5f}  mse {mse:.5f}  kld {kld:.3f}  beta {beta:.4g}  tfr {tfr:.2f}".format(
            at.epoch + 1, at.epochs, **entry
        )
        if not last and self.cfg.eval_every and (at.epoch + 1) % self.cfg.eval_every == 0:
            text += f"  val {self.evaluate(at.epoch).mean:.2f} dB"
        progress.line(f"{text}  {self.seconds:.0f} s")

    def evaluate(self, epoch: int) -> Score:
        """Score the present weights on the validation clips, log it, keep the weights if they are the best."""
        self.eval_model.load_state_dict(self.learner.eval_weights())
        score = score_model(self.eval_model, self.data.val, self.cfg, self.device)
        entry = {"kind": "eval", "epoch": epoch, "step": self.step, "split": "val", "psnr": score.mean,
                 "ssim": float(score.ssim.mean()), "seconds": round(self.seconds, 2),
                 **{name: float(b["psnr"].mean()) for name, b in score.baselines.items()}}  # fmt: skip
        self.log.append(entry)
        self.trackers.log(entry)
        if score.mean > self.best["psnr"]:
            self.best = {"psnr": score.mean, "epoch": epoch}
            self.save_weights(self.run.dir / "best.pt", score.mean, epoch)
            runlog.write_score(self.run.dir / "scores.npz", score)
        return score

    def finish(self, progress: Progress) -> None:
        """The last evaluation, and the result."""
        score = self.evaluate(self.cfg.epochs - 1)
        self.save()
        self.log.close()
        result = self.result("finished")
        protocol = {**score.protocol, "weights": "the best of the evaluations on val"}
        best = runlog.read_score(self.run.dir / "scores.npz", protocol)
        self.run.write_result({**result, **best.summary()})
        self.trackers.close()
        progress.line(f"done: {best.mean:.2f} dB on val, {self.step} steps, {self.seconds:.0f} s")
        progress.close(f"done: {best.mean:.2f} dB on val")

    def result(self, status: str, reason: str | None = None) -> dict[str, Any]:
        model, cfg = self.learner.model, self.cfg
        pixels = self.data.train.frames[0].numel()
        peak = cfg.beta * max(cfg.annealing(s, 1000) for s in range(1000))
        return {
            "status": status,
            "reason": reason,
            "best_epoch": self.best["epoch"],
            "steps": self.step,
            "seconds": round(self.seconds, 2),
            "device": accel.describe(self.device),
            "precision": str(self.learner.dtype).removeprefix("torch."),
            "parameters": count_parameters(model),
            "effective_beta": cfg.loss.effective_beta(peak, pixels, math.prod(model.latent_shape)),
            "fingerprint": self.run.fingerprint,
            "data": {"name": self.data.name, "digest": self.data.digest},
        }


def _to(clips, device: torch.device):
    """The clips with their tensors on a device: the dataset is resident there during training."""
    return type(clips)(clips.frames.to(device), clips.cond.to(device), clips.starts)


def _zeros() -> dict[str, Any]:
    return {"n": 0}


@contextmanager
def _stop_requests() -> Iterator:
    """Turn the first Ctrl-C or SIGTERM into a request that is looked at between two steps, so that no update is
    half done; a second one interrupts at once. Only the main thread can do this; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []
    before = {}

    def ask(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
