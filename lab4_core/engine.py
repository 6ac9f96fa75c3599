"""Training a run, from its configuration to its result: the loop, its log, its checkpoints."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lab4_core import accel, checkpoint, distributed, runlog
from lab4_core.batches import check_ahead, make_batch
from lab4_core.clock import Clock, Position
from lab4_core.config import Config
from lab4_core.data import VideoData, load_data
from lab4_core.errors import Lab4Error
from lab4_core.evaluation import score_model
from lab4_core.finite import FiniteWatch
from lab4_core.interrupts import Stopped, stop_requests
from lab4_core.models.base import count_parameters
from lab4_core.progress import Progress
from lab4_core.runlog import Run
from lab4_core.scores import Score
from lab4_core.trackers import Trackers
from lab4_core.training import Learner, build_model

LOG_EVERY = 10  # optimizer steps between "step" records, and on a GPU between checks that the loss is finite
SAVE_SECONDS = 60  # between checkpoints within a long epoch
TERMS = ("loss", "mse", "kld", "grad_norm")
NOTHING = dict.fromkeys((*TERMS, "beta", "tfr"), math.nan)  # the means of an epoch in which every step was skipped


def train(
    cfg: Config,
    out: str | os.PathLike | None = None,
    resume: str = "auto",
    data: VideoData | None = None,
    loggers: tuple[str, ...] = (),
) -> Run:
    """Load or train: return the finished run of this configuration and data if there is one, else train it.

    resume: "auto" continues from the last checkpoint, "never" discards it and starts over. loggers: "tensorboard",
    "wandb" (offline). Ctrl-C (or the notebook's stop button), SIGTERM and SIGHUP save the run after the current step,
    and the partial run is returned; calling again continues it. Unless it is measured in minutes, a resumed run
    computes bit for bit what an uninterrupted one would have (on a GPU: under
    `torch.use_deterministic_algorithms(True)`, with CUBLAS_WORKSPACE_CONFIG=:4096:8). Raises `Lab4Error` for whatever
    the user can fix, including a loss that is not finite; the run is then marked as failed, with the reason.
    """
    if resume not in ("auto", "never"):
        raise Lab4Error(f"resume = {resume!r}: expected 'auto' or 'never'")
    data = data.hold_out(cfg.hold_out) if data else load_data(cfg)
    folder = runlog.folder_of(cfg, data.digest, out)
    with distributed.processes(cfg.batch_size, cfg.device), distributed.own_folder(folder) as mine:
        run = _load_or_train(runlog.create(mine, cfg), cfg, data, resume, loggers if distributed.leads() else ())
    return run if run.dir == folder else Run(folder)


def _load_or_train(run: Run, cfg: Config, data: VideoData, resume: str, loggers: tuple[str, ...]) -> Run:
    if resume == "auto" and run.finished and run.whole:  # without the lock: its folder may be read-only
        if runlog.of_other_code(run.result, cfg) and distributed.leads():
            print(f"lab4: note: {run.dir.name} was trained before the code of its parts changed; it is not trained "
                  "again unless asked to: resume = never", file=sys.stderr)  # fmt: skip
        return run
    with runlog.owning(run.dir):
        if resume == "never":
            runlog.reset(run)
        try:
            lower = f"batch_size = {cfg.batch_size} or n_frames = {cfg.n_frames}, or the widths of the model"
            with accel.memory_for(cfg.device, lower):
                return _Training(cfg, data, run, loggers).fit()
        except Exception as e:
            reason = str(e) if isinstance(e, Lab4Error) else distributed.lost(e) or f"{type(e).__name__}: {e}"
            with suppress(Lab4Error):  # the disk may be what failed; the error itself is what matters
                run.write_result({"status": "failed", "reason": reason})
            raise


class _Training:
    """A run in progress. Whatever is not in `learner` or in the fields that `save` saves is a pure function of them."""

    def __init__(self, cfg: Config, data: VideoData, run: Run, loggers: tuple[str, ...]):
        self.cfg, self.data, self.run = cfg, data, run
        self.fingerprint = cfg.fingerprint(data.digest)
        self.device = accel.pick_device(cfg.device)
        clips, device = data.train, self.device  # the dataset is resident on the device during training
        self.train_clips = type(clips)(clips.frames.to(device), clips.cond.to(device), clips.starts)
        self.clock = Clock(cfg, data.train.spans)
        self.learner = Learner(cfg, build_model(cfg, self.train_clips, self.device), self.device)
        check_ahead(cfg, data, self.learner.model, self.clock)
        self.eval_model = build_model(cfg, self.train_clips, self.device)
        self.trackers = Trackers(loggers, run)
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.best: dict[str, Any] = {"psnr": -math.inf, "epoch": -1}
        self.sums = {"step": {"n": 0}, "epoch": {"n": 0}}
        self.watch = FiniteWatch()
        self.log = runlog.MetricsFile(run.dir / "metrics.jsonl", self.restore())
        self.saved_at = time.monotonic()

    def restore(self) -> int:
        """Restore the newest whole checkpoint and return what `take` returns; 0 if there is none."""
        log_size = checkpoint.load_newest(self.run.dir, runlog.STATES, self.take, self.device)
        if log_size is not None:
            with suppress(OSError):
                (self.run.dir / "result.json").unlink()  # left by the attempt that ended here
            self.adopt_best()
            return log_size
        runlog.reset(self.run)  # without a checkpoint, other files belong to no step
        return 0

    def take(self, state: dict[str, Any], path: Path) -> int:
        """Restore a checkpoint, after checking all of it. Returns the size of the metrics file when it was saved."""
        where = f"checkpoint {path}"
        if state.get("run") != self.fingerprint:
            raise Lab4Error(f"{where}: of the run {state.get('run')!r}: expected one of {self.fingerprint!r}")
        own = self.state()
        shapes = {k: v for k, v in own.items() if k not in ("learner", "sums")}
        checkpoint.check_like(shapes, {k: state.get(k) for k in shapes}, where)
        learner, sums = state.get("learner"), state.get("sums")
        counts = all(0 <= state[k] < math.inf for k in ("step", "skipped", "log_size", "seconds"))
        if not counts or not isinstance(learner, dict) or not runlog.are_sums(sums, self.sums.keys()):
            raise Lab4Error(f"{where}: expected the learner's state, the sums of the log, and counts from 0 on")
        for name in ("model", "memory"):
            checkpoint.check_like(own["learner"][name], learner.get(name), f"{where}: {name}")
        self.learner.load_state_dict(learner, where)
        for name in ("step", "seconds", "skipped", "sums"):
            setattr(self, name, state[name])
        return state["log_size"]

    def adopt_best(self) -> None:
        """Read the best score from best.pt, not from the checkpoint: the file may be newer (killed between the two) or
        gone. scores.npz is the copy of its scores that can be read without torch."""
        try:
            state = checkpoint.load(path := self.run.dir / "best.pt")
            psnr, epoch = state.get("psnr"), state.get("epoch")
            if state.get("run") != self.fingerprint or not isinstance(psnr, float) or not isinstance(epoch, int):
                raise Lab4Error(f"checkpoint {path}: not of this run")
            checkpoint.check_weights(self.eval_model, state.get("weights"), f"checkpoint {path}")
            score = runlog.score_of(state["scores"] or {}, {}, str(path))
        except (Lab4Error, AttributeError, TypeError) as e:
            if path.exists():
                print(f"lab4: {e}; the next evaluation writes it again", file=sys.stderr)
            return
        self.best = {"psnr": psnr, "epoch": epoch}
        runlog.write_score(self.run.dir / "scores.npz", score)

    def state(self) -> dict[str, Any]:
        return {"learner": self.learner.state_dict(), "step": self.step, "seconds": self.seconds, "best": self.best,
                "skipped": self.skipped, "sums": self.sums, "log_size": 0, "run": self.fingerprint}  # fmt: skip

    def save(self) -> None:
        self.watch.check()
        self.log.sync()
        newest, before = runlog.STATES
        checkpoint.save(self.run.dir / newest, {**self.state(), "log_size": self.log.size}, before)
        self.saved_at = time.monotonic()

    def save_best(self, score: Score, epoch: int) -> None:
        weights = self.learner.eval_weights()
        shapes = self.data.train.frames.shape[1:], self.data.train.cond.shape[1:]
        scores = {name: torch.from_numpy(values) for name, values in runlog.score_arrays(score).items()}
        best = {"psnr": score.mean, "epoch": epoch}
        file = checkpoint.weights_file(self.cfg.to_dict()["model"], weights, *shapes, **best, run=self.fingerprint,
                                       scores=scores)  # fmt: skip
        checkpoint.save(self.run.dir / "best.pt", file)
        runlog.write_score(self.run.dir / "scores.npz", score)
        self.best = best

    def fit(self) -> Run:
        progress = Progress(self.cfg.name)
        begun = time.monotonic() - self.seconds
        try:
            with stop_requests() as stop_requested:
                while at := self.clock.at(self.step, self.seconds):
                    self.one_step(at)
                    self.seconds = distributed.latest(time.monotonic() - begun)
                    after = self.clock.at(self.step, self.seconds)
                    progress.update(self.clock.fraction(self.step, self.seconds), f"epoch {at.epoch + 1}/{at.epochs}")
                    if after is None or after.epoch != at.epoch:
                        self.learner.end_epoch(at.epoch, at.epochs)
                        self.end_epoch(at, progress, last=after is None)
                        self.seconds = distributed.latest(time.monotonic() - begun)
                        if after is None or (at.epoch + 1) % self.cfg.save_every == 0:
                            self.save()
                    if distributed.anywhere(stop_requested()):
                        self.save()
                        return self.stopped(progress)
                    if time.monotonic() - self.saved_at > SAVE_SECONDS:
                        self.save()
                return self.finish(progress, stop_requested)
        finally:
            self.log.close()
            self.trackers.close()

    def stopped(self, progress: Progress) -> Run:
        progress.close("stopped; the same call continues from here", done=False)
        self.run.write_result(self.result("partial", reason=f"stopped after {self.step} steps"))
        return self.run

    def one_step(self, at: Position) -> None:
        cfg, model = self.cfg, self.learner.model
        beta, lr = cfg.beta * at.of(cfg.annealing), cfg.optimizer.lr * at.of(cfg.lr_schedule)
        batch = make_batch(cfg, self.train_clips, at, self.step, model.needs_reference, model.cond_offsets)
        terms = self.learner.step(batch, self.step, beta, lr)
        self.step += 1
        values = {name: terms[name] for name in TERMS}
        if terms.get("skipped") and self.skipped < cfg.skip_nonfinite:
            self.skipped += 1
            self.log.append({"kind": "skip", "epoch": at.epoch, "step": self.step, "skipped": self.skipped})
            return
        self.watch.add(self.step, values, beta, batch.starts)
        if self.device.type == "cpu" or self.step % LOG_EVERY == 0:
            self.watch.check()
        tfr = cfg.teacher_forcing.ratio_at(at.epoch, at.epochs)
        known = {"beta": beta, "lr": lr, "tfr": tfr, "teacher_forced": batch.teacher_forced}
        for sums in self.sums.values():
            sums["n"] += 1
            for name, value in (values | known).items():
                sums[name] = sums.get(name, 0.0) + value
        if self.step % LOG_EVERY == 0:
            self.record("step", at.epoch)

    def record(self, kind: str, epoch: int) -> dict[str, Any]:
        """Log the means since the last record of this kind, and start new sums."""
        sums = self.sums[kind]
        n = max(1, sums.pop("n"))
        entry = {"kind": kind, "epoch": epoch, "step": self.step, **{k: float(v) / n for k, v in sums.items()},
                 "seconds": round(self.seconds, 2)}  # fmt: skip
        self.sums[kind] = {"n": 0}
        self.log.append(entry)
        self.trackers.log(entry)
        return entry

    def end_epoch(self, at: Position, progress: Progress, last: bool) -> None:
        entry = self.record("epoch", at.epoch)
        text = "epoch {:>3}/{}  loss {loss:.5f}  mse {mse:.5f}  kld {kld:.3f}  beta {beta:.4g}  tfr {tfr:.2f}".format(
            at.epoch + 1, at.epochs, **(NOTHING | entry)
        )
        if not last and self.cfg.eval_every and (at.epoch + 1) % self.cfg.eval_every == 0:
            text += f"  val {self.evaluate(at.epoch).mean:.2f} dB"
        progress.line(f"{text}  {self.seconds:.0f} s")

    def evaluate(self, epoch: int, tick: Callable[[int, int], None] = lambda done, total: None) -> Score:
        """Score the current weights on the validation clips, log it, and save them if `cfg.keep` says so."""
        self.watch.check()
        self.eval_model.load_state_dict(self.learner.eval_weights())
        begun = time.monotonic()
        with accel.memory_for(self.device, f"eval_frames = {self.cfg.eval_frames}, or validate on fewer clips"):
            score = score_model(self.eval_model, self.data.val, self.cfg, self.device, tick=tick)
        entry = {"kind": "eval", "epoch": epoch, "step": self.step, "split": "val", "psnr": score.mean,
                 "ssim": float(score.ssim.mean()), "seconds": round(self.seconds, 2),
                 "eval_seconds": round(time.monotonic() - begun, 2),
                 **{name: float(b["psnr"].mean()) for name, b in score.baselines.items()}}  # fmt: skip
        self.log.append(entry)
        self.trackers.log(entry)
        if score.mean > self.best["psnr"] or (self.cfg.keep == "last" and math.isfinite(score.mean)):
            self.save_best(score, epoch)
        return score

    def finish(self, progress: Progress, stop_requested: Callable[[], bool]) -> Run:
        """The last evaluation and the result. No checkpoint follows: a run killed here evaluates again when resumed."""

        def tick(done: int, total: int) -> None:
            if stop_requested():
                raise Stopped

        try:
            score = self.evaluate(self.cfg.epochs - 1, tick)
        except Stopped:
            return self.stopped(progress)
        if self.best["epoch"] < 0 or (self.cfg.keep == "last" and not math.isfinite(score.mean)):
            raise Lab4Error(f"the PSNR on val is {score.mean}: expected a finite one from at least one evaluation. "
                            "Rollouts that grow without bound do this; model.output = clamp bounds them")  # fmt: skip
        weights = {"best": "the best of the evaluations on val", "last": "those of the last step"}[self.cfg.keep]
        protocol = {**score.protocol, "weights": weights}
        best = runlog.read_score(self.run.dir / "scores.npz", protocol)
        self.log.sync()
        self.run.write_result({**self.result("finished"), **best.summary()})
        progress.line(f"done: {best.mean:.2f} dB on val, {self.step} steps, {self.seconds:.0f} s")
        progress.close(f"done: {best.mean:.2f} dB on val")
        return self.run

    def result(self, status: str, reason: str | None = None) -> dict[str, Any]:
        model, cfg = self.learner.model, self.cfg
        pixels = self.data.train.frames[0].numel()
        peak = cfg.beta * self.clock.peak(cfg.annealing)
        return {
            "status": status, "reason": reason, "best_epoch": self.best["epoch"], "steps": self.step,
            **({"skipped": self.skipped} if self.skipped else {}), "seconds": round(self.seconds, 2),
            "device": accel.describe(self.device), "precision": str(self.learner.dtype).removeprefix("torch."),
            "parameters": count_parameters(model),
            "effective_beta": cfg.loss.effective_beta(peak, pixels, math.prod(model.latent_shape)),
            "fingerprint": self.fingerprint, "code": cfg.code(),
            "data": {"name": self.data.name, "digest": self.data.digest},
        }  # fmt: skip
