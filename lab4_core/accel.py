"""Where and in which arithmetic to compute."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext

import torch

from lab4_core.errors import Lab4Error


def pick_device(name: str = "auto") -> torch.device:
    """The device of a `device` field. Raises `Lab4Error` for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        have = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise Lab4Error(f"device = {name!r}: not on this machine; expected one of {', '.join(have)}") from e
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic of training for a `precision` field. `auto` is bf16 on a CUDA device that has it and fp32
    elsewhere."""
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """bf16 where asked for; weights, losses and metrics stay fp32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def describe(device: torch.device) -> str:
    """The device in words, for results and benchmarks."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
