"""Training in several processes, one per GPU, started by torchrun:

    torchrun --nproc_per_node 2 -m lab4_core.cli train --preset lab --data ROOT

Every process holds the whole model and the whole dataset, draws the same batch and computes its share of the clips;
DistributedDataParallel averages the gradients (Li et al. 2020, arXiv 2006.15704). So, but for the noise that strategies
draw within it, a step is the one a single process would take with the whole batch, and a run may be resumed with a
different number of processes.

Only the first process writes to the run's folder. The others work in a temporary copy.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lab4_core.errors import Lab4Error


def size() -> int:
    """The number of processes that train together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the one that writes and prints. Also valid before and after training."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def processes(batch_size: int, device: str = "auto") -> Iterator[None]:
    """For the duration of the body, join the processes that torchrun started, if any. device: the configuration's;
    GPUs are used only if it is auto or cuda.

    Raises `Lab4Error` for a batch that cannot be shared evenly, for a device that is one certain GPU, for fewer GPUs
    than processes, and when another process is lost; the last checkpoint is whole then.
    """
    count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if count == 1 or not dist.is_torchelastic_launched() or size() > 1:
        yield
        return
    if batch_size % count:
        raise Lab4Error(f"batch_size = {batch_size}: expected a multiple of the {count} processes that share it")
    if device.startswith("cuda:"):
        raise Lab4Error(f"device = {device!r}: expected auto or cuda; each of the {count} processes takes its own GPU")
    gpus = torch.cuda.is_available() and device.startswith(("auto", "cuda"))
    if gpus:
        if local >= torch.cuda.device_count():
            raise Lab4Error(f"nproc_per_node: expected at most {torch.cuda.device_count()}, the GPUs of this machine")
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    # as soon as one process is lost, torchrun sends SIGTERM to the others, which then have 30 s to report it
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
        signal.signal(signal.SIGTERM, before)
    except RuntimeError as e:
        if reason := lost(e):
            raise Lab4Error(reason) from e
        raise
    finally:
        dist.destroy_process_group()


def lost(error: BaseException) -> str | None:
    """The message for an error that means another process is gone; None for any other error."""
    if size() == 1 or not isinstance(error, RuntimeError):
        return None
    if not (isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection" in str(error)):
        return None
    return (
        f"process {dist.get_rank()} of {size()}: another process of this training is lost "
        f"({str(error).splitlines()[0]}); expected all of them to the end. "
        "The last checkpoint is whole: the same command continues from it"
    )


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """The run's folder for the leading process; for each of the others a copy to write to, with stdout silenced."""
    if size() == 1:
        yield folder
    elif leads():
        dist.barrier()  # until the others have their copies
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="lab4-") as temporary, open(os.devnull, "w") as nowhere:
            copy = Path(temporary) / folder.name
            if folder.is_dir():
                shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("lock*"))
            dist.barrier()
            with redirect_stdout(nowhere):
                yield copy


def latest(seconds: float) -> float:
    """The largest value in any process: all must go by one clock, or they would end at different steps."""
    if size() == 1:
        return seconds
    value = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return float(value)


def anywhere(flag: bool) -> bool:
    """Whether the flag is true in any process."""
    return bool(latest(float(flag)))


def share(clips: int) -> slice:
    """This process's clips of a batch. A batch that cannot be divided evenly (the last of a pass) is computed whole by
    every process: the mean of equal gradients is that gradient."""
    each, rest = divmod(clips, size())
    return slice(None) if rest or size() == 1 else slice(each * dist.get_rank(), each * (dist.get_rank() + 1))


def averaging(model: nn.Module) -> Callable[..., Any]:
    """`model.unroll`, with gradients averaged over the processes during the backward pass."""
    if size() == 1:
        return model.unroll
    return nn.parallel.DistributedDataParallel(_Unroll(model), broadcast_buffers=False)


class _Unroll(nn.Module):
    """Needed because DistributedDataParallel wraps only `forward`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model.unroll(*args, **kwargs)


def mean(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of scalars over the processes."""
    if size() == 1:
        return terms
    values = torch.stack([v.detach().float() for v in terms.values()])
    dist.all_reduce(values)
    return dict(zip(terms, values / size()))


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over the processes; gradients flow back through it to all of them."""
    if size() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x, group=dist.group.WORLD)  # by default, that of the time of the import
