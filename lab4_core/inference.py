"""What one does with a trained run: score it, roll it out, hand in its test clips."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from lab4_core import accel, checkpoint, registry, runlog
from lab4_core.config import Config
from lab4_core.data import VideoData, load_data, to_float
from lab4_core.errors import Lab4Error
from lab4_core.evaluation import score_model
from lab4_core.free_running import rollout as roll_out
from lab4_core.media import Video
from lab4_core.metrics import psnr_per_frame
from lab4_core.models.base import VideoPredictor, count_parameters
from lab4_core.paths import runs_dir
from lab4_core.runlog import Run
from lab4_core.scores import Score
from lab4_core.submission import write_submission


def load_run(folder: str | os.PathLike) -> Run:
    """The run of a folder. Raises `Lab4Error` when it is none."""
    return Run(folder)


def load_model(run: Run, device: str | torch.device = "auto") -> VideoPredictor:
    """The best weights of a run in their model, in eval mode. Raises `Lab4Error` when there are none yet."""
    device = accel.pick_device(str(device))
    path = run.dir / "best.pt"
    state = checkpoint.load(path, device)
    try:
        part = registry.build("model", state["model"])
        model = part.build(tuple(state["frame_shape"]), tuple(state["cond_shape"]))
        weights = state["weights"]
    except KeyError as e:
        raise Lab4Error(f"checkpoint {path}: no {e} in it; expected one that lab4 wrote") from e
    checkpoint.load_weights(model, weights, f"checkpoint {path}")
    return model.to(device, memory_format=torch.channels_last).eval()


def evaluate(
    run: Run, split: str = "val", n_samples: int | None = None, data: VideoData | None = None, device: str = "auto"
) -> Score:
    """Score the best weights of a run on the clips of a split: "val" or "train". See `evaluation.score_model`."""
    if split not in ("val", "train"):
        raise Lab4Error(f"split = {split!r}: expected 'val' or 'train' (the test clips have no ground truth)")
    data = data or load_data(run.config)
    clips = data.val if split == "val" else data.train
    device = accel.pick_device(device)
    model = load_model(run, device)
    try:
        return score_model(model, clips, run.config, device, split=split, samples=n_samples)
    except RuntimeError as e:
        raise Lab4Error(f"dataset {data.name}: frames {tuple(clips.frames.shape[1:])} are not what the model of "
                        f"{run.dir.name} was built for ({e})") from e  # fmt: skip


def predict(run: Run, first: Any, cond: Any, seed: int = 0, device: str = "auto") -> torch.Tensor:
    """Free-running prediction of one clip: (T, C, H, W) in [0, 1] on the CPU, the given frames included.

    first (C, H, W) or (n_past, C, H, W), cond (T, …); images as uint8 or floats in [0, 1], tensors or arrays.
    """
    model = load_model(run, device)
    device = next(model.parameters()).device
    first, cond = (to_float(torch.as_tensor(v)).to(device) for v in (first, cond))
    if first.dim() == 3:
        first = first[None]
    try:
        rest = roll_out(model, first[None], cond[None], seed=seed, z_scale=run.config.z_scale)[0]
    except RuntimeError as e:
        raise Lab4Error(f"first frame {tuple(first.shape)}, conditions {tuple(cond.shape)}: not what the model of "
                        f"{run.dir.name} was built for ({e})") from e  # fmt: skip
    return torch.cat([first, rest]).clamp(0, 1).cpu()


def rollout(run: Run, first: Any, cond: Any, seed: int = 0, truth: Any = None, device: str = "auto") -> Video:
    """`predict` as a video that shows itself: prediction, the truth where it is known, and the pose, side by side."""
    predicted, psnr = predict(run, first, cond, seed, device), None
    panels, n_past = {"prediction": predicted}, run.config.n_past
    if truth is not None:
        panels["ground truth"] = truth
        truth = to_float(torch.as_tensor(truth))
        psnr = psnr_per_frame(predicted[None, n_past:], truth[None, n_past : len(predicted)])[0].tolist()
    if torch.as_tensor(cond).dim() == 4:
        panels["pose"] = cond
    title = f"{run.name}, predicted from the first frame and the poses"
    return Video(panels, title=title, psnr=psnr, n_past=n_past, scale=3)


def test(
    run: Run, data: VideoData | None = None, out: str | os.PathLike | None = None, seed: int = 0, device: str = "auto"
) -> list[Path]:
    """Predict every test clip and write what the lab hands in: `submission.csv`, and for clip i `pred_seq<i>.gif`
    (prediction and pose) and its film strip `pred_seq<i>.png`. Returns the paths.

    out: a folder, by default `test/` in the run. Raises `Lab4Error` when the dataset has no test clips.
    """
    data = data or load_data(run.config)
    if not data.test:
        raise Lab4Error(f"dataset {data.name}: it has no test clips; expected test/test_img/0 and test/test_label/0")
    model = load_model(run, device)
    device = next(model.parameters()).device
    folder = Path(out) if out else run.dir / "test"
    predictions: dict[int, torch.Tensor] = {}
    lengths = sorted({len(clip.cond) for clip in data.test})
    for length in lengths:  # clips of one length are one batch
        some = [i for i, clip in enumerate(data.test) if len(clip.cond) == length]
        past = to_float(torch.stack([data.test[i].first for i in some]).to(device))
        cond = to_float(torch.stack([data.test[i].cond for i in some]).to(device))
        rest = roll_out(model, past, cond, seed=seed, z_scale=run.config.z_scale)
        for i, clip in zip(some, torch.cat([past, rest], 1).clamp(0, 1).cpu()):
            predictions[i] = clip
    written = [folder / "submission.csv"]
    write_submission(written[0], [predictions[i] for i in range(len(data.test))])
    for i, clip in enumerate(data.test):
        video = Video({"prediction": predictions[i], "pose": clip.cond}, title=f"test clip {clip.name}")
        for suffix in (".gif", ".png"):
            written.append(folder / f"pred_seq{i}{suffix}")
            video.save(written[-1])
    return written


def import_checkpoint(
    path: str | os.PathLike, out: str | os.PathLike | None = None, overrides: dict[str, Any] | None = None
) -> Run:
    """A published checkpoint of the lab as a run that can be evaluated, tested and rolled out.

    overrides: fields of the configuration, such as `{"model.norm": "running"}` for weights trained with running
    statistics. Raises `Lab4Error` for a file that could run code, is truncated, or is of another model.
    """
    cfg = Config.from_dict({"name": "imported", **(overrides or {})})
    weights = checkpoint.lab_weights(path)
    shape = (3, 32, 64)
    model = cfg.model.build(shape, shape)
    checkpoint.load_weights(model, weights, f"checkpoint {path}")
    digest = hashlib.sha256(b"".join(v.cpu().numpy().tobytes() for v in model.state_dict().values())).hexdigest()
    run = runlog.create(runs_dir(out) / f"{cfg.name}-{cfg.fingerprint(digest)}", cfg, anew=True)
    best = checkpoint.weights_file(cfg.to_dict()["model"], model.state_dict(), shape, shape, psnr=None, epoch=-1)
    checkpoint.save(run.dir / "best.pt", best)
    run.write_result({"status": "imported", "reason": f"from {Path(path).name}", "parameters": count_parameters(model)})
    return run
