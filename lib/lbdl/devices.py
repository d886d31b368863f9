"""Where tensors live: picking a device, seeding, timing and memory that mean the same on all of them (book, 2.1)."""

import os
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from lbdl.show import note

VARIABLE = "LBDL_DEVICE"  # the environment variable that overrides the choice
MEBIBYTE = 2**20


def _accelerators() -> list[str]:
    """The accelerators that this PyTorch can reach now, best first."""
    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found.append("xpu")
    return found


def _has_dtype(name: str, dtype: torch.dtype) -> bool:
    try:
        torch.zeros(1, device=name, dtype=dtype) + 1
    except (RuntimeError, TypeError):  # MPS raises TypeError for float64
        return False
    return True


def device(needs: torch.dtype = torch.float32) -> torch.device:
    """The device to compute on, and a line under the cell that says which.

    CUDA, then MPS, then XPU, then the CPU: the first that is there and has the number format `needs` (Apple's
    MPS has no float64). The environment variable LBDL_DEVICE, "cpu" or "cuda:1" say, overrides the choice.

    Args:
        needs: the number format that the chapter computes in.

    Raises:
        ValueError: LBDL_DEVICE names no device, one that is not there, or one without `needs`.
    """
    asked = os.environ.get(VARIABLE)
    if asked is None:
        name = next((n for n in [*_accelerators(), "cpu"] if _has_dtype(n, needs)), "cpu")
    else:
        name = asked
        there = ", ".join(["cpu", *_accelerators()])
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError, ImportError) as error:
            raise ValueError(f"{VARIABLE}={asked!r}: expected a device that is there ({there})") from error
        if not _has_dtype(name, needs):
            raise ValueError(f"{VARIABLE}={asked!r}: expected a device with {needs}, and this one has none ({there})")
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun starts one process for each GPU
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    note("Computing on", torch.device(name))
    return torch.device(name)


def seed(value: int = 0) -> torch.Generator:
    """Fix every source of chance (Python, NumPy, PyTorch on all devices); return a CPU generator with that seed.

    Draw from the returned generator and move the result: the numbers are then the same on every device.
    """
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError(f"seed: expected a whole number from 0 to 2**64 - 1, got {value!r}")
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)
    return torch.Generator().manual_seed(value)


def synchronize(on: torch.device | str) -> None:
    """Wait until the device has done all that it was asked: GPUs answer before they have computed."""
    kind = torch.device(on).type
    if kind in ("cuda", "mps", "xpu"):
        getattr(torch, kind).synchronize()


def seconds(function: Callable[[], object], on: torch.device | str = "cpu", repeats: int = 7) -> float:
    """Median time of one call of `function`, in seconds, after one call to warm up; the device is synchronized.

    Raises:
        ValueError: fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"seconds: expected at least 1 repeat, got {repeats}")
    function()
    times = []
    for _ in range(repeats):
        synchronize(on)
        start = time.perf_counter()
        function()
        synchronize(on)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_memory(function: Callable[[], object], on: torch.device | str) -> float | None:
    """Most memory that tensors took on the device during one call of `function`, in MiB; None where none is reported.

    CUDA and XPU keep a peak; MPS reports only what is allocated at the end of the call; the CPU reports nothing.
    """
    kind = torch.device(on).type
    if kind in ("cuda", "xpu"):
        api = getattr(torch, kind)
        api.reset_peak_memory_stats()
        function()
        synchronize(on)
        return api.max_memory_allocated() / MEBIBYTE
    function()
    if kind == "mps":
        synchronize(on)
        return torch.mps.current_allocated_memory() / MEBIBYTE
    return None
