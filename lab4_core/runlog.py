"""A run's directory: its configuration, its log, its results. Reading one needs no torch.

runs/<name>-<fingerprint>/  config.json  metrics.jsonl  result.json  scores.npz  last.pt  previous.pt  best.pt

Every file is written beside its final place and moved there when it is whole; metrics.jsonl is appended to, and cut
back to its length at the checkpoint when a run is resumed. So a run can be killed at any instant, and read at any
other.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.paths import remove_leftovers, replacing, runs_dir, write_text
from lab4_core.scores import Score

STATES = ("last.pt", "previous.pt")  # the state of training, newest first
COMPUTED = ("result.json", *STATES, "best.pt", "scores.npz", "metrics.jsonl")  # in the order they are to be deleted
BEST = "best_of"  # the name of the best samples among the arrays of scores.npz


class Run:
    """A run on disk, finished or not. Results and logs are read anew on every access, so a live run can be watched."""

    def __init__(self, folder: str | os.PathLike):
        """Raises `Lab4Error` if the folder is not a run."""
        self.dir = Path(folder).expanduser().resolve()
        if not (self.dir / "config.json").is_file():
            raise Lab4Error(f"run {folder}: no config.json there; expected the folder of a run, as `lab4 train` prints")
        self.config = Config.from_dict(read_json(self.dir / "config.json"))

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def result(self) -> dict[str, Any]:
        """result.json, or {} before there is one."""
        path = self.dir / "result.json"
        return checked_result(read_json(path), path) if path.is_file() else {}

    @property
    def finished(self) -> bool:
        return self.result.get("status") == "finished"

    @property
    def whole(self) -> bool:
        """Whether all that a finished run leaves for others is there."""
        return all((self.dir / name).is_file() for name in ("best.pt", "scores.npz", "metrics.jsonl"))

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind (step, epoch, eval, skip) in metrics.jsonl, in order. A last line that is still being
        written is left out."""
        path = self.dir / "metrics.jsonl"
        try:
            lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
            records = [json.loads(line) for line in lines if line]
        except (OSError, ValueError, RecursionError) as e:
            raise Lab4Error(f"{path}: not JSON lines ({e})") from e
        if not all(isinstance(r, dict) for r in records):
            raise Lab4Error(f"{path}: not JSON lines of records: expected an object a line")
        return [r for r in records if r.get("kind") == kind]

    def scores(self) -> Score | None:
        """The evaluation of the kept weights, frame by frame; None if there is none yet."""
        path = self.dir / "scores.npz"
        return read_score(path, self.result.get("protocol", {})) if path.is_file() else None

    def write_result(self, result: dict[str, Any]) -> None:
        write_text(self.dir / "result.json", json.dumps(result, indent=1) + "\n")

    def __repr__(self) -> str:
        result = self.result
        status = result.get("status", "not finished")
        psnr = f", {result['psnr']:.2f} dB" if result.get("psnr") is not None else ""
        return f"Run({self.name}: {status}{psnr})"


def folder_of(config: Config, digest: str, out: str | os.PathLike | None = None) -> Path:
    """A run's folder, existing or not. digest: of its data (`VideoData.digest`); out: as in `paths.runs_dir`."""
    return runs_dir(out) / f"{config.name}-{config.fingerprint(digest)}"


def create(folder: Path, config: Config) -> Run:
    """The run in a folder, made if it is new. Its configuration is written again if the one there cannot be read or
    differs in what does not make another run, such as the location of the data: the folder's name says which run
    belongs there."""
    if (folder / "config.json").is_file():
        try:
            run = Run(folder)
            if run.config.to_dict() == config.to_dict():
                return run  # else still the same run: its data have moved, or it continues on another device
        except Lab4Error as e:
            print(f"lab4: {e}; written again", file=sys.stderr)
    write_text(folder / "config.json", json.dumps(config.to_dict(), indent=1) + "\n")
    return Run(folder)


def reset(run: Run) -> None:
    """Delete what a run computed, keep its configuration. Killed half-way, this leaves an unfinished run."""
    try:
        for name in COMPUTED:
            (run.dir / name).unlink(missing_ok=True)
    except OSError as e:
        raise Lab4Error(f"cannot delete {e.filename}: {e.strerror}; expected a folder that can be written to") from e
    shutil.rmtree(run.dir / "figures", ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise Lab4Error(f"{path}: cannot be read as JSON ({e})") from e
    if not isinstance(value, dict):
        raise Lab4Error(f"{path}: holds a {type(value).__name__}, expected an object")
    return value


def checked_result(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """The result, after checking that its entries have the types that tables and plots need; others may be anything."""
    number = (int, float, type(None))
    types = dict.fromkeys(("psnr", "ssim", "seconds", "effective_beta"), number)
    types |= dict.fromkeys(("parameters", "steps", "best_epoch"), int)
    types |= {"status": str, "reason": (str, type(None)), "baselines": dict, "protocol": dict, "data": dict}
    for key, kind in types.items():
        if key in result and not (isinstance(result[key], kind) and _moderate(result[key])):
            raise Lab4Error(f"{path}: {key} = {str(result[key])[:80]!r}: expected a result that lab4 wrote")
    for name, scores in result.get("baselines", {}).items():
        if not isinstance(scores, dict) or not all(isinstance(v, number) and _moderate(v) for v in scores.values()):
            raise Lab4Error(f"{path}: baselines: {name} = {str(scores)[:80]!r}: expected a result that lab4 wrote")
    return result


def of_other_code(result: dict[str, Any], config: Config) -> bool:
    """Whether a run was trained before the code of its parts changed. False for old results, which do not say."""
    return result.get("code") not in (None, config.code())


def _moderate(value: Any) -> bool:
    """False for an integer too large to compute with: JSON's have no limit."""
    return not isinstance(value, int) or abs(value) < 2**63


def score_arrays(score: Score) -> dict[str, np.ndarray]:
    """A score as named arrays: psnr, ssim, brightness, and `<name>.psnr`, `<name>.ssim` for baselines and best_of."""
    arrays = {"psnr": score.psnr, "ssim": score.ssim}
    if score.brightness is not None:
        arrays["brightness"] = score.brightness
    for name, values in {**score.baselines, **({BEST: score.best_of} if score.best_of else {})}.items():
        arrays |= {f"{name}.{k}": v for k, v in values.items()}
    return arrays


def score_of(arrays: dict[str, Any], protocol: dict[str, Any], where: str) -> Score:
    """The score in such arrays. Raises `Lab4Error` unless they all have one shape, (clips, frames)."""
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    shape = arrays["psnr"].shape if "psnr" in arrays else ()
    if "ssim" not in arrays or len(shape) != 2 or 0 in shape or {a.shape for a in arrays.values()} != {shape}:
        raise Lab4Error(f"{where}: not the scores of a run; expected psnr and ssim by clip and frame")
    if not all(a.dtype.kind == "f" for a in arrays.values()):
        raise Lab4Error(f"{where}: not the scores of a run; expected floats")
    baselines: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        name, dot, metric = key.partition(".")
        if dot:
            baselines.setdefault(name, {})[metric] = value
    if not all(b.keys() == {"psnr", "ssim"} for b in baselines.values()):
        raise Lab4Error(f"{where}: not the scores of a run; expected psnr and ssim of every baseline")
    return Score(arrays["psnr"], arrays["ssim"], baselines, protocol, baselines.pop(BEST, {}),
                 brightness=arrays.get("brightness"))  # fmt: skip


def write_score(path: Path, score: Score) -> None:
    with replacing(path) as temporary:
        np.savez(temporary, **score_arrays(score))


def read_score(path: Path, protocol: dict[str, Any]) -> Score:
    try:
        with np.load(path, allow_pickle=False) as f:
            arrays = {key: f[key] for key in f.files}
    except Exception as e:  # a damaged file can fail in any way
        raise Lab4Error(f"{path}: not the scores of a run ({e})") from e
    return score_of(arrays, protocol, str(path))


class MetricsFile:
    """metrics.jsonl, open for appending. `size` goes into checkpoints, so that a resumed run cuts off what was
    logged after the step it resumes from."""

    def __init__(self, path: Path, size: int = 0):
        """Raises `Lab4Error` if it cannot be written. A file shorter than `size` is reported and used as it is: a gap
        in the log is no reason to lose the training."""
        try:
            path.touch()
            there = path.stat().st_size
            if there < size:
                print(f"lab4: {path} lacks its last {size - there} bytes; the log has a gap there", file=sys.stderr)
                size = path.read_bytes().rfind(b"\n") + 1
            os.truncate(path, size)
            self._file = open(path, "ab")  # noqa: SIM115 (until the end of the run)
        except OSError as e:
            raise Lab4Error(f"cannot write {path}: {e.strerror}; expected a folder that can be written to") from e
        self.size = size

    def append(self, record: dict[str, Any]) -> None:
        line = (json.dumps({k: _short(v) for k, v in record.items()}) + "\n").encode()
        with self._errors():
            self._file.write(line)
            self._file.flush()
        self.size += len(line)

    def sync(self) -> None:
        """Flush to disk: a checkpoint must not outlive the lines it counts."""
        with self._errors():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with suppress(OSError):  # a failed write was reported when it was appended
            self._file.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise Lab4Error(f"cannot write {self._file.name}: {e.strerror}; expected room left on the disk") from e


def are_sums(sums: Any, kinds: Collection[str]) -> bool:
    """Whether these are the running sums of the records of `kinds`: a count and numbers (or scalar tensors) each."""
    return (
        isinstance(sums, dict)
        and sums.keys() == set(kinds)
        and all(isinstance(s, dict) and isinstance(s.get("n"), int) for s in sums.values())
        and all(
            isinstance(v, (int, float)) or getattr(v, "shape", None) == () for s in sums.values() for v in s.values()
        )
    )


def _short(value: Any) -> Any:
    """A float to seven digits; None if it is not finite, which JSON cannot express."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Lock a folder for this process. Raises `Lab4Error` naming the process that already holds it.

    The lock is the kernel's: it ends with its process, however that ends.
    """
    lock, owner = FileLock(str(folder / "lock"), timeout=0), folder / "lock.owner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as e:
        who = "unknown"
        with suppress(OSError, ValueError):
            who = owner.read_text(encoding="utf-8")[:200]
        raise Lab4Error(f"{folder}: in use by process {who}; expected to be the only one that works there") from e
    except (OSError, NotImplementedError) as e:
        raise Lab4Error(f"cannot write in {folder}: {e}; expected a folder that can be written to") from e
    try:
        write_text(owner, f"{os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        remove_leftovers(folder)
        yield
    finally:
        with suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()
