"""Trained weights to pass on: one safetensors file with the weights and, in its header, what they are and how they
scored. The format holds tensors and text only, so a file can be opened without trusting its sender.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save

from lab4_core import checkpoint, runlog, tensor_files
from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.inference import load_model, run_of
from lab4_core.paths import replacing
from lab4_core.runlog import Run
from lab4_core.tensor_files import KEY, SHIPPED

TOLD = ("steps", "seconds", "device", "precision", "psnr", "ssim", "protocol", "baselines")  # what to export


def export_weights(run: Run, path: str | os.PathLike) -> Path:
    """The best weights of a run as one file, with its configuration and its score. Returns the path.

    Raises `Lab4Error` for a run without weights, and for a name that does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise Lab4Error(f"export to {path}: expected a name that ends in .safetensors")
    weights = {k: v.contiguous() for k, v in load_model(run, "cpu").state_dict().items()}
    state = checkpoint.load(run.dir / "best.pt")
    config = run.config.to_dict()
    for name in ("out", "root"):  # a path on this machine means nothing on another
        config["data"].pop(name, None)
    for strategy in config["strategies"]:
        if strategy.get("weights"):
            strategy["weights"] = Path(strategy["weights"]).name
    header = {"config": config, "shapes": [state["frame_shape"], state["cond_shape"]],
              "result": {k: run.result[k] for k in TOLD if k in run.result}}  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_bytes(save(weights, {KEY: json.dumps(header)}))
    return path


def pretrained(path: str | os.PathLike = SHIPPED, out: str | os.PathLike | None = None) -> Run:
    """An exported file as a run that can be evaluated, tested, rolled out and plotted; by default the model shipped
    with this package, trained on the synthetic dancer.

    out: folder for the run; else `$LAB4_RUNS`, else runs/ of the checkout. Raises `Lab4Error` for a file that is
    damaged, from another program, or whose weights do not fit the model it names.
    """
    path = Path(path)
    header, weights = tensor_files.read(path)
    config, shapes, result = _checked(header, path)
    config = config.replace(precision="fp32")  # whatever it was trained in: the same rollouts on every machine
    model = checkpoint.build_with(config.model, shapes, weights, f"weights {path}")
    return run_of(model, config, shapes, out, {"status": "imported", "reason": f"from {path.name}", **result})


def _checked(header: Any, path: Path) -> tuple[Config, list[tuple[int, ...]], dict[str, Any]]:
    """Configuration, shapes and result of a header, checked to be as this program writes them."""
    if not isinstance(header, dict) or header.keys() != {"config", "shapes", "result"}:
        raise Lab4Error(f"weights {path}: no header of lab4 in it; expected a file that `lab4 export` wrote")
    try:
        config = Config.from_dict(header["config"])
        shapes = [tuple(map(int, shape)) for shape in header["shapes"]]
        fits = len(shapes) == 2 and all(0 < n <= 4096 for shape in shapes for n in shape)
        result = {k: v for k, v in header["result"].items() if k in TOLD}
    except (TypeError, ValueError, AttributeError, OverflowError) as e:
        raise Lab4Error(f"weights {path}: its header is damaged ({e})") from e
    if not fits or math.prod(shapes[0]) > 10**8:
        raise Lab4Error(f"weights {path}: shapes {shapes}; expected those of a frame and of its condition")
    return config, shapes, runlog.checked_result({"status": "imported", **result}, path)
