"""TensorBoard and W&B in addition to metrics.jsonl. Both are optional extras."""

from __future__ import annotations

import os
from typing import Any

from lab4_core.errors import Lab4Error, unknown
from lab4_core.runlog import Run

KNOWN = ("tensorboard", "wandb")


class Trackers:
    """Forwards every logged record. Raises `Lab4Error` for an unknown tracker, or one that is not installed."""

    def __init__(self, names: tuple[str, ...], run: Run):
        self._tensorboard = self._wandb = None
        for name in names:
            if name not in KNOWN:
                raise unknown("logger", name, KNOWN)
        if "tensorboard" in names:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as e:
                raise Lab4Error("logger 'tensorboard' is not installed: pip install 'lab4[tensorboard]'") from e
            self._tensorboard = SummaryWriter(str(run.dir / "tensorboard"))
        if "wandb" in names:
            try:
                import wandb
            except ImportError as e:
                raise Lab4Error("logger 'wandb' is not installed: pip install 'lab4[wandb]'") from e
            mode = os.environ.get("WANDB_MODE", "offline")  # nothing is sent anywhere unless the user says so
            self._wandb = wandb.init(
                project="lab4", name=run.dir.name, dir=str(run.dir), mode=mode, config=run.config.to_dict()
            )

    def log(self, record: dict[str, Any]) -> None:
        numbers = {
            f"{record['kind']}/{k}": v
            for k, v in record.items()
            if isinstance(v, (int, float)) and k not in ("step", "epoch")
        }
        if self._tensorboard:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, record["step"])
        if self._wandb:
            self._wandb.log({**numbers, "epoch": record["epoch"]}, step=record["step"])

    def close(self) -> None:
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()
