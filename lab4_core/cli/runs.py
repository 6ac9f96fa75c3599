"""Runs from what is typed, and their scores as they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab4_core.cli import lab_flags, options
from lab4_core.cli.recipe import note
from lab4_core.config import layer
from lab4_core.presets import SOURCES


def open_run(
    text: str, out: str | None, root: str | None, overrides: Mapping[str, Any], flags: Sequence[str] = ()
) -> Any:
    """The run that a path means. An exported file becomes a run under `out`; so does a checkpoint of the lab, with the
    dataset at `root` and these overrides. flags: the typed ones that only matter for such a checkpoint."""
    from lab4_core.inference import import_checkpoint, load_run

    path, line = lab_flags.find_checkpoint(text)
    note(*filter(None, [line]))
    if path.is_dir() or path.suffix == ".safetensors":
        note(*(f"{flag} has no effect: {path.name} knows its own model and frame size" for flag in flags))
    if path.is_dir():
        return load_run(path)
    if path.suffix == ".safetensors":
        from lab4_core.weights import pretrained

        return pretrained(path, out)
    folder = options.dataset_root(root)
    data = {"data": "lab4", "data.root": folder} if folder else {}
    return import_checkpoint(path, out, layer(data, overrides))


def dataset_for(run: Any, root: str | None) -> Any:
    """The dataset in a folder, at the frame size of the run's; None, for the run's own, if no folder is named."""
    from lab4_core.data import load_data
    from lab4_core.registry import build

    if not root:
        return None
    size = {k: v for k in ("height", "width") if (v := getattr(run.config.data, k, None))}
    kind = run.config.data.kind if hasattr(run.config.data, "root") else SOURCES[run.config.model.conditions][1]
    return load_data(build("data", {"kind": kind, "root": options.dataset_root(root), **size}))


def print_score(score: Any) -> None:
    """Print the scores of the model and its baselines, and how they were measured."""
    from lab4_core.scores import MEASURES

    means = score.means
    shown = {k: v for k, v in MEASURES.items() if k in means["this model"]}
    print(f"{'':16}" + "".join(f"{title:>11}" for title, _ in shown.values()) + "  worst frame (dB)")
    for name, values in means.items():
        cells = "".join(f"{format(values[k], f) if k in values else '-':>11}" for k, (_, f) in shown.items())
        label = "this run" if name == "this model" else name.replace("_", " ")
        print(f"{label:16}{cells}{score.rows[name]['psnr'].min():18.2f}")
    print("copy previous knows the true previous frame: a yardstick, no prediction")
    if score.drift:
        print(f"drift: {score.drift_text}")
    for key, value in score.protocol.items():
        print(f"{key}: {value}")


def draw(run: Any, result: Any, loss: bool, psnr: bool) -> None:
    """Write the figures of --plot_training_loss and --plot_psnr into the run's folder."""
    if not (loss or psnr):
        return
    from lab4_core import plots
    from lab4_core.paths import replacing

    figures = {"training_loss.png": lambda: plots.plot_training([run])} if loss else {}
    if psnr:
        n_past = run.config.n_past
        figures["psnr_per_frame.png"] = lambda: plots.plot_psnr_per_frame({run.name: result}, n_past=n_past)
    for name, figure in figures.items():
        with replacing(run.dir / "figures" / name) as temporary:
            figure().savefig(temporary, dpi=110)
        print(run.dir / "figures" / name)
