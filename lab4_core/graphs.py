"""Training steps and blocks of rollouts as CUDA graphs: recorded once, then replayed with one launch, not thousands.

A recording freezes the addresses of tensors and every Python number. So whatever changes from step to step comes in as
a tensor and is copied to the address that the recording reads, and results are copied out before the next replay
overwrites them. Whatever decides which operations run (the path) belongs to the key of the recording.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lab4_core.errors import Lab4Error

WARM_UP = 3  # runs before recording, in which libraries choose their kernels and optimizers create their state
WAITS = "synchronizing CUDA operation"  # in torch's message for what `no_waiting` refuses
Tensors = dict[str, Tensor]


class Recording(NamedTuple):
    inputs: Tensors  # what the recording reads
    outputs: Tensors  # what it writes
    replay: Callable[[], None]


class Graphs:
    """`body(inputs, path)` -> tensors by name, recorded once for every path and every set of input shapes.

    The body must start with gradients of None, and must not wait for the GPU: one that does (say, a custom loss that
    reads a number back) is run as it is instead of being recorded, which one note reports. `state` lists the tensors
    that it changes in place (weights, buffers, the optimizer's state; those that the body itself creates must start at
    zero): the warm-up leaves no trace in them. `rng` is what the body draws from: a replay continues from where the
    generator is at that time, as the body would. capture=False runs the body itself instead of a recording, on any
    device, so that the rest can be tested without a GPU.
    """

    def __init__(
        self,
        body: Callable[[Tensors, Hashable], Tensors],
        state: Callable[[], list[Tensor]],
        capture: bool = True,
        rng: torch.Generator | None = None,
    ):
        self.body, self.state, self.capture, self.rng = body, state, capture, rng
        self.forget()

    def forget(self) -> None:
        """To be called when a tensor of the state was replaced by another: recordings hold addresses."""
        self.recordings: dict[Hashable, Recording] = {}
        self.pool = torch.cuda.graph_pool_handle() if self.capture else None
        self.stream: torch.cuda.Stream | None = None

    def __call__(self, inputs: Tensors, path: Hashable) -> Tensors:
        key = path, tuple((name, v.shape, v.dtype, v.stride()) for name, v in inputs.items())
        if key not in self.recordings:
            device = next(iter(inputs.values())).device  # streams and generator states belong to the current one
            with torch.cuda.device(device) if self.capture else nullcontext():
                self.recordings[key] = self._recorded_if_it_fits(inputs, path)
        recording = self.recordings[key]
        for name, value in inputs.items():
            recording.inputs[name].copy_(value)
        recording.replay()
        return {name: value.clone() for name, value in recording.outputs.items()}

    def _recorded_if_it_fits(self, inputs: Tensors, path: Hashable) -> Recording:
        """A further recording needs memory of its own, where the step itself would still fit: then nothing is recorded
        any more."""
        with suppress(torch.OutOfMemoryError) if self.capture and self.recordings else nullcontext():
            return self.record(inputs, path)
        _note_once("a further kind of step does not fit into the GPU's memory beside the recorded ones")
        self.capture = False
        self.forget()
        torch.cuda.empty_cache()
        return self.record(inputs, path)

    def record(self, inputs: Tensors, path: Hashable) -> Recording:
        own = {name: value.clone() for name, value in inputs.items()}
        with no_trace(self.state, self.rng):
            if self.capture:
                self.capture = self._warmed_up(own, path)  # if one path waits for the GPU, so will the others
            else:
                self.body(own, path)
        if not self.capture:
            outputs: Tensors = {}
            return Recording(own, outputs, lambda: outputs.update(self.body(own, path)))
        graph = torch.cuda.CUDAGraph()
        if self.rng is not None:
            graph.register_generator_state(self.rng)
        before = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                outputs = self.body(own, path)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:  # torch does not recover from it in this process
            torch.cuda.set_stream(before)
            raise Lab4Error(f"a step cannot be recorded as a CUDA graph ({e}): restart with LAB4_CUDA_GRAPHS=0") from e
        return Recording(own, outputs, graph.replay)

    def _warmed_up(self, own: Tensors, path: Hashable) -> bool:
        """Warm up. Returns whether the body can be recorded; if not, prints a note that says which line waits."""
        try:
            self._warm_up_aside(own, path)
        except RuntimeError as e:
            if WAITS not in str(e):
                raise
            at = traceback.extract_tb(e.__traceback__)[-1]
            _note_once(f"{at.filename}:{at.lineno}: {at.line or 'something'} waits for the GPU")
            return False
        return True

    def _warm_up_aside(self, own: Tensors, path: Hashable) -> None:
        """Warm up on the stream that records, which may not be the usual one. The last run raises where it waits for
        the GPU: while recording, that error could leave the process unusable."""
        aside = self.stream = self.stream or torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(aside):
                for run in range(WARM_UP):
                    with no_waiting() if run == WARM_UP - 1 else nullcontext():
                        self.body(own, path)
        finally:
            torch.cuda.current_stream().wait_stream(aside)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises a RuntimeError with `WAITS` in it."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode does not detect every way to wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@cache
def _note_once(why: str) -> None:
    print(f"lab4: note: {why}, so that the steps are not recorded as CUDA graphs but run as they are, which is slower",
          file=sys.stderr)  # fmt: skip


@contextmanager
def no_trace(state: Callable[[], list[Tensor]], rng: torch.Generator | None = None) -> Iterator[None]:
    """Afterwards the tensors of the state hold what they held, at the same addresses, and new ones are zero; the
    generator is back where it was."""
    before = {id(v): (v, v.detach().clone()) for v in state()}
    draws = rng and rng.get_state()
    try:
        yield
    finally:
        if rng is not None:
            rng.set_state(draws)
        with torch.no_grad():
            for v in state():
                v.copy_(before[id(v)][1]) if id(v) in before else v.zero_()


@contextmanager
def recordable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """In the body, the optimizer's step may be recorded, with tensors as learning rates; afterwards its settings are
    restored, so a checkpoint shows no trace of graphs."""
    before = [dict(group) for group in optimizer.param_groups]
    try:
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = next(iter(group["params"])).is_cuda
        yield
    finally:
        for group, values in zip(optimizer.param_groups, before):
            group.update(values)
