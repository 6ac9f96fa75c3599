"""What to do with a trained run: score it, roll it out, predict the test clips to hand in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lab4_core import accel, checkpoint, registry, runlog
from lab4_core.config import Config
from lab4_core.data import Clips, TestClip, VideoData, load_data, to_float
from lab4_core.errors import Lab4Error
from lab4_core.evaluation import AT_ONCE, predict_clips, score_model
from lab4_core.media import Video, same_size
from lab4_core.metrics import psnr_per_frame
from lab4_core.models.base import VideoPredictor, count_parameters
from lab4_core.paths import write_text
from lab4_core.runlog import Run
from lab4_core.scores import Score
from lab4_core.submission import write_submission

SHOWN = 16  # test clips for which `test` writes pictures
FPS = {"poses": 20.0, "actions": 8.0}  # the robot's clips have 30 frames: in a second and a half one would see nothing


def load_run(folder: str | os.PathLike) -> Run:
    """The run in a folder. Raises `Lab4Error` if the folder is not a run."""
    return Run(folder)


def load_model(run: Run, device: str | torch.device = "auto") -> VideoPredictor:
    """A run's model with its best weights, in eval mode. Raises `Lab4Error` if there are none yet."""
    device = accel.pick_device(str(device))
    path = run.dir / "best.pt"
    state = checkpoint.load(path, device)
    source = f"checkpoint {path}"
    trained, found = run.result.get("fingerprint"), state.get("run")
    if not isinstance(found, (str, type(None))) or (found and trained and found != trained):
        raise Lab4Error(f"{source}: of the run {str(found)[:40]!r}: expected the one of {run.dir.name}, {trained!r}")
    try:
        part = registry.build("model", state["model"])
        shapes = [tuple(int(n) for n in state[name]) for name in ("frame_shape", "cond_shape")]
        weights = state["weights"]
    except Lab4Error as e:
        raise Lab4Error(f"{source}: {e}") from e
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise Lab4Error(f"{source}: no {e} in it; expected one that lab4 wrote") from e
    if not all(0 < n <= 4096 for shape in shapes for n in shape):
        raise Lab4Error(f"{source}: frames of {shapes[0]}, conditions of {shapes[1]}; expected sizes from 1 to 4096")
    model = checkpoint.build_with(part, shapes, weights, source)
    return model.to(device, memory_format=torch.channels_last).eval()


def evaluate(
    run: Run,
    split: str = "val",
    n_samples: int | None = None,
    data: VideoData | None = None,
    device: str = "auto",
    frames: int | None = None,
    lpips: Sequence[str | os.PathLike] = (),
    fvd: str | os.PathLike | None = None,
    single: bool = False,
) -> Score:
    """Score the best weights of a run on the clips of a split: "val", "train", or "test" if the dataset has the truth
    of its test clips. n_samples (rollouts of each clip) and frames (of a clip, including the given ones: 30 is 2 -> 28)
    default to the run's. single: one rollout where a strategy of the run would average several (`averaged_views`).

    lpips, fvd: files with the weights of these measures (`lpips.load_lpips`, `fvd.load_fvd`). They are not part of this
    project and never downloaded; the protocol says when they are missing. See `evaluation.score_model`."""
    if split not in ("val", "train", "test"):
        raise Lab4Error(f"split = {split!r}: expected 'val', 'train' or 'test'")
    data = data or load_data(run.config)
    if data.digest == (run.result.get("data") or {}).get("digest"):  # the run's own data: a held-out clip stays so
        data = data.hold_out(run.config.hold_out)
    clips = _known(data) if split == "test" else data.val if split == "val" else data.train
    cfg = run.config if frames is None else run.config.replace(eval_frames=frames)
    if single:
        cfg = cfg.replace(strategies=tuple(s for s in cfg.strategies if not s.averages))
    device = accel.pick_device(device)
    model = load_model(run, device)
    measures = {}
    if lpips:
        from lab4_core.perceptual.lpips import load_lpips

        measures["lpips"] = load_lpips(lpips, device)
    if fvd:
        from lab4_core.perceptual.fvd import load_fvd

        measures["fvd"] = load_fvd(fvd, device)
    missing = {m: f"no weights given (lab4 evaluate --{m} FILE)" for m in ("lpips", "fvd") if m not in measures}
    frames_are = f"dataset {data.name}: frames {tuple(clips.frames.shape[1:])} are"
    with _fitting(run, device, frames_are, f"eval_frames = {cfg.eval_frames}, or score fewer clips"):
        score = score_model(model, clips, cfg, device, split=split, samples=n_samples, **measures)
    return replace(score, protocol=score.protocol | missing)


@contextmanager
def _fitting(run: Run, device: torch.device, given: str, lower: str) -> Iterator[None]:
    """A rollout's errors as those the user can fix: `given` is not what the model was built for, or memory ran out and
    `lower` says what would need less."""
    try:
        with accel.memory_for(device, lower):
            yield
    except RuntimeError as e:
        raise Lab4Error(f"{given} not what the model of {run.dir.name} was built for ({e})") from e


def _known(data: VideoData) -> Clips:
    """The test clips whose truth is known, as one split."""
    known = [(clip.truth, clip.cond) for clip in data.test if clip.truth is not None]
    if not known:
        raise Lab4Error(f"dataset {data.name}: the truth of its test clips is not known; expected split 'val'")
    return Clips.joined(known)


def predict(run: Run, first: Any, cond: Any, seed: int = 0, device: str = "auto") -> torch.Tensor:
    """Free-running prediction of one clip: (T, C, H, W) in [0, 1] on the CPU, including the given frames.

    first (n_past, C, H, W), or (C, H, W) if n_past is 1; cond (T, …), pose images or numbers. Images are uint8 or
    floats in [0, 1], tensors or arrays.
    """
    model = load_model(run, device)
    device = next(model.parameters()).device
    first, cond = (to_float(torch.as_tensor(v)).to(device) for v in (first, cond))
    if first.dim() == 3:
        first = first[None]
    if len(first) < run.config.n_past or len(cond) <= len(first):
        raise Lab4Error(f"{len(first)} given frames and conditions of {len(cond)}: expected n_past = "
                        f"{run.config.n_past} frames, as {run.dir.name} was trained, and more conditions")  # fmt: skip
    given = f"first frame {tuple(first.shape)}, conditions {tuple(cond.shape)}:"
    with _fitting(run, device, given, "fewer conditions"):
        rest = predict_clips(model, first[None], cond[None], run.config, seed=seed)[0]
    return torch.cat([first, rest]).clamp(0, 1).cpu()


def rollout(run: Run, first: Any, cond: Any, seed: int = 0, truth: Any = None, device: str = "auto") -> Video:
    """`predict` as a video that displays itself: prediction, ground truth if given, and pose images, side by side."""
    predicted, psnr = predict(run, first, cond, seed, device), None
    n_past, poses = len(first) if torch.as_tensor(first).dim() == 4 else 1, torch.as_tensor(cond).dim() == 4
    panels = {"prediction": predicted}
    if truth is not None:
        panels["ground truth"] = truth
        same_size(panels)  # ahead of the comparison, whose own error would name no panel
        psnr = _psnr(run, predicted, truth, n_past)
    if poses:
        panels["pose"] = cond
    given = "the first frame" if n_past == 1 else f"the first {n_past} frames"
    title = f"{run.name}, predicted from {given} and the {'poses' if poses else 'actions'}"
    fps = FPS["poses" if poses else "actions"]
    return Video(panels, title=title, psnr=psnr, of=run.config.psnr, n_past=n_past, scale=3, fps=fps)


def _psnr(run: Run, predicted: torch.Tensor, truth: Any, n: int) -> list[float]:
    """PSNR (dB) of each frame of one clip after the n given ones, by the run's definition."""
    truth = to_float(torch.as_tensor(truth))
    return psnr_per_frame(predicted[None, n:], truth[None, n : len(predicted)], run.config.psnr)[0].tolist()


def test(
    run: Run, data: VideoData | None = None, out: str | os.PathLike | None = None, seed: int = 0, device: str = "auto"
) -> list[Path]:
    """Predict every test clip and write what the lab asks for: for clip i (of the first 16) `pred_seq<i>.gif` and a
    film strip, `pred_seq<i>.png`. From poses, the pictures show the pose, and `submission.csv` is written; if the truth
    is known, it is on the left, and `psnr.csv` has the dB of every frame of every clip. Returns the paths.

    out: a folder, by default `test/` in the run. Raises `Lab4Error` if the dataset has no test clips.
    """
    data = data or load_data(run.config)
    if not data.test:
        raise Lab4Error(f"dataset {data.name}: it has no test clips; expected some in its folder test")
    model = load_model(run, device)
    device = next(model.parameters()).device
    folder = Path(out) if out else run.dir / "test"
    given = [_given(clip, run.config.n_past) for clip in data.test]
    predictions: dict[int, torch.Tensor] = {}
    lengths = sorted({len(clip.cond) for clip in data.test})
    for length in lengths:  # clips of equal length are one batch, or a few
        alike = [i for i, clip in enumerate(data.test) if len(clip.cond) == length]
        for begin in range(0, len(alike), AT_ONCE):
            some = alike[begin : begin + AT_ONCE]
            with _fitting(run, device, f"dataset {data.name}: test clips are", "fewer or shorter test clips"):
                past = to_float(torch.stack([given[i] for i in some]).to(device))
                cond = to_float(torch.stack([data.test[i].cond for i in some]).to(device))
                rest = predict_clips(model, past, cond, run.config, seed=seed + begin)
            for i, clip in zip(some, torch.cat([past, rest], 1).clamp(0, 1).cpu()):
                predictions[i] = clip
    written, poses, rows = [], data.test[0].cond.dim() == 4, ["clip,frame,psnr"]
    if poses:
        written.append(write_submission(folder / "submission.csv", [predictions[i] for i in range(len(data.test))]))
    for i, clip in enumerate(data.test):
        panels, psnr = {"prediction": predictions[i]}, None
        if clip.truth is not None:
            panels = {"ground truth": clip.truth} | panels
            psnr = _psnr(run, predictions[i], clip.truth, run.config.n_past)
            rows += [f"{clip.name},{t},{v:.4f}" for t, v in enumerate(psnr, run.config.n_past)]
        if poses:
            panels["pose"] = clip.cond
        if i >= SHOWN:
            continue
        fps = FPS["poses" if poses else "actions"]
        measured = {"psnr": psnr, "of": run.config.psnr, "n_past": run.config.n_past}
        video = Video(panels, title=f"test clip {clip.name}", fps=fps, **measured)
        for suffix in (".gif", ".png"):
            written.append(folder / f"pred_seq{i}{suffix}")
            video.save(written[-1])
    if len(rows) > 1:
        written.append(folder / "psnr.csv")
        write_text(written[-1], "\n".join(rows) + "\n")
    return written


def _given(clip: TestClip, n_past: int) -> torch.Tensor:
    """The given frames (n_past, C, H, W) of a test clip."""
    frames = clip.first if clip.truth is None else clip.truth
    if len(frames) < n_past or len(clip.cond) <= n_past:
        raise Lab4Error(f"test clip {clip.name}: {len(frames)} known frames and {len(clip.cond)} conditions; expected "
                        f"n_past = {n_past} and more")  # fmt: skip
    return frames[:n_past]


def import_checkpoint(
    path: str | os.PathLike, out: str | os.PathLike | None = None, overrides: dict[str, Any] | None = None
) -> Run:
    """A published checkpoint of the lab as a run that can be evaluated, tested and rolled out.

    overrides: fields of the configuration, such as `{"model.norm": "running"}` for weights trained with running
    statistics. Raises `Lab4Error` for a file that could run code, is truncated, or belongs to another model.
    """
    cfg = Config.from_dict({"name": "imported", "precision": "fp32", **(overrides or {})})
    weights = checkpoint.bare_weights(path)
    shape = (3, getattr(cfg.data, "height", 32), getattr(cfg.data, "width", 64))
    model = cfg.model.build(shape, shape)
    checkpoint.load_weights(model, weights, f"checkpoint {path}")
    return run_of(model, cfg, [shape, shape], out, {"status": "imported", "reason": f"from {Path(path).name}"})


def run_of(
    model: VideoPredictor,
    cfg: Config,
    shapes: Sequence[Sequence[int]],
    out: str | os.PathLike | None,
    result: Mapping[str, Any],
) -> Run:
    """A run like any other for a model that was not trained here. shapes: of a frame and of its condition."""
    weights = model.state_dict()
    digest = hashlib.sha256(b"".join(v.cpu().numpy().tobytes() for v in weights.values())).hexdigest()
    run = runlog.create(runlog.folder_of(cfg, digest, out), cfg)
    checkpoint.save(run.dir / "best.pt", checkpoint.weights_file(cfg.to_dict()["model"], weights, *shapes))
    run.write_result({"parameters": count_parameters(model), **result})
    return run
