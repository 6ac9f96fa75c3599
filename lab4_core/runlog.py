"""A run's directory: what it was asked, what it logged, what came out. Reading one needs no torch.

runs/<name>-<fingerprint>/  config.json  metrics.jsonl  result.json  scores.npz  last.pt  best.pt
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.paths import replacing, write_text
from lab4_core.scores import Score


class Run:
    """A run on disk, finished or not. Everything is read when asked for, so a live run can be watched."""

    def __init__(self, folder: str | os.PathLike):
        """Raises `Lab4Error` when the folder is no run."""
        self.dir = Path(folder).expanduser().resolve()
        if not (self.dir / "config.json").is_file():
            raise Lab4Error(f"run {folder}: no config.json there; expected the folder of a run, as `lab4 train` prints")
        self.config = Config.from_dict(read_json(self.dir / "config.json"))

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def fingerprint(self) -> str:
        return self.dir.name.rpartition("-")[2]

    @property
    def result(self) -> dict[str, Any]:
        """result.json, or {} before there is one."""
        path = self.dir / "result.json"
        return read_json(path) if path.is_file() else {}

    @property
    def finished(self) -> bool:
        return self.result.get("status") == "finished"

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind (step, epoch, eval) in metrics.jsonl, in order. A last line that is still being
        written is left out."""
        path = self.dir / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        try:
            records = [json.loads(line) for line in lines if line]
        except ValueError as e:
            raise Lab4Error(f"{path}: not JSON lines ({e})") from e
        return [r for r in records if r.get("kind") == kind]

    def scores(self) -> Score | None:
        """The evaluation of the finished run, frame by frame."""
        path = self.dir / "scores.npz"
        return read_score(path, self.result.get("protocol", {})) if path.is_file() else None

    def write_result(self, result: dict[str, Any]) -> None:
        write_text(self.dir / "result.json", json.dumps(result, indent=1) + "\n")

    def __repr__(self) -> str:
        result = self.result
        status = result.get("status", "not finished")
        psnr = f", {result['psnr']:.2f} dB" if "psnr" in result else ""
        return f"Run({self.name}: {status}{psnr})"


def create(folder: Path, config: Config, anew: bool = False) -> Run:
    """The run of a folder, made if it is new; `anew` writes its configuration again."""
    if anew or not (folder / "config.json").is_file():
        write_text(folder / "config.json", json.dumps(config.to_dict(), indent=1) + "\n")
    return Run(folder)


def reset(run: Run) -> None:
    """Forget what a run computed, keep what it was asked."""
    for name in ("metrics.jsonl", "result.json", "scores.npz", "last.pt", "best.pt"):
        (run.dir / name).unlink(missing_ok=True)
    shutil.rmtree(run.dir / "figures", ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise Lab4Error(f"{path}: cannot be read as JSON ({e})") from e
    if not isinstance(value, dict):
        raise Lab4Error(f"{path}: holds a {type(value).__name__}, expected an object")
    return value


def write_score(path: Path, score: Score) -> None:
    arrays = {"psnr": score.psnr, "ssim": score.ssim}
    for name, values in score.baselines.items():
        arrays |= {f"{name}.{k}": v for k, v in values.items()}
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def read_score(path: Path, protocol: dict[str, Any]) -> Score:
    try:
        with np.load(path, allow_pickle=False) as f:
            arrays = dict(f)
        baselines: dict[str, dict[str, np.ndarray]] = {}
        for key, value in arrays.items():
            name, dot, metric = key.partition(".")
            if dot:
                baselines.setdefault(name, {})[metric] = value
        return Score(arrays["psnr"], arrays["ssim"], baselines, protocol)
    except (OSError, ValueError, KeyError, EOFError) as e:
        raise Lab4Error(f"{path}: not the scores of a run ({e})") from e


class MetricsFile:
    """metrics.jsonl, open for appending. `size` goes into checkpoints, so that a resumed run cuts off what was
    logged after the step it resumes from."""

    def __init__(self, path: Path, size: int = 0):
        path.touch()
        os.truncate(path, min(size, path.stat().st_size))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (until the end of the run)
        self.size = path.stat().st_size

    def append(self, record: dict[str, Any]) -> None:
        line = json.dumps({k: _short(v) for k, v in record.items()}) + "\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as e:
            raise Lab4Error(f"cannot write {self._file.name}: {e.strerror}; expected room left on the disk") from e
        self.size += len(line.encode())

    def close(self) -> None:
        self._file.close()


def _short(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


@contextmanager
def owning(run: Run) -> Iterator[None]:
    """Hold a run's directory. Raises `Lab4Error` naming the process that already holds it."""
    lock = FileLock(str(run.dir / "lock"), timeout=0)
    owner = run.dir / "lock.owner"
    try:
        lock.acquire()
    except Timeout as e:
        who = owner.read_text() if owner.is_file() else "unknown"
        raise Lab4Error(f"run {run.dir}: in use by process {who}; expected to be the only one that trains it") from e
    except OSError as e:
        raise Lab4Error(f"cannot write in {run.dir}: {e.strerror}; expected a folder that can be written to") from e
    try:
        owner.write_text(str(os.getpid()))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
