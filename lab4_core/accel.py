"""Which device to compute on, and in which arithmetic."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache

import torch

from lab4_core.errors import Lab4Error


def pick_device(name: str = "auto") -> torch.device:
    """The device that a `device` field names. Raises `Lab4Error` if this machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":  # torch's device without storage: tensors there have shapes but no values
            raise RuntimeError("meta holds no numbers")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        have = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise Lab4Error(f"device = {name!r}: not on this machine; expected one of {', '.join(have)}") from e
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic of training and rollouts that a `precision` field names. `auto` is bf16 on a CUDA device that has
    it and on a CPU whose matrix unit computes in it (AMX), where it is faster (benchmarks/README.md); fp32 elsewhere.

    With fp32 on a CUDA device, this also stops convolutions from rounding to TF32, which is torch's default: fp32
    results are compared across machines."""
    if name == "auto":
        on_cuda = device.type == "cuda" and has_bf16(device)
        name = "bf16" if on_cuda or (device.type == "cpu" and has_amx()) else "fp32"
    if device.type == "cuda":  # either way: what ran before in this process must not decide
        torch.backends.cudnn.allow_tf32 = name == "bf16"
    return torch.bfloat16 if name == "bf16" else torch.float32


@contextmanager
def no_tf32() -> Iterator[None]:
    """For metrics: convolutions of fp32 tensors on a GPU compute in fp32, even where bf16 training left TF32 on."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def has_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bf16 natively rather than emulating it."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def has_amx() -> bool:
    """Whether this processor has a matrix unit for bf16 (AMX). Processors with avx512_bf16 alone gain little."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16")) and bool(capabilities.get("amx_tile"))


def records(device: torch.device) -> bool:
    """Whether training steps and long rollouts are recorded as CUDA graphs: on every CUDA device, unless
    LAB4_CUDA_GRAPHS is 0, which debugging or a new driver version may require."""
    return device.type == "cuda" and os.environ.get("LAB4_CUDA_GRAPHS") != "0"


@cache
def keep_freed_memory() -> None:
    """Make glibc keep the memory that tensors free. By default it returns large blocks to the system, which zeroes
    them page by page when the next tensor needs them: a fifth of a training step of the lab's model.

    The process keeps the most it has ever used, as it does with a GPU's memory. Other allocators are left alone.
    """
    with suppress(OSError, AttributeError, TypeError):  # macOS, Windows, musl
        mallopt = ctypes.CDLL(None).mallopt
        mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        if mallopt(m_mmap_max, 0):
            mallopt(m_trim_threshold, -1)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Autocast to bf16 if `dtype` is that; weights, losses and metrics stay fp32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def describe(device: torch.device) -> str:
    """The device in words, for results and benchmarks."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' * (threads != 1)}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: torch has a type for it on GPUs but only a message on the CPU."""
    words = ("allocate memory", "out of memory", "storage size calculation overflowed", "alloc_failed",
             "allocation_failed")  # fmt: skip
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words)
    )


@contextmanager
def memory_for(device: torch.device | str, lower: str) -> Iterator[None]:
    """Turn running out of memory in the body into a `Lab4Error` that says what to lower, such as "batch_size = 10"."""
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        if not out_of_memory(e):
            raise
        raise Lab4Error(f"out of memory on {device}: lower {lower}") from e
