"""Devices: choosing one by name, its 16-bit type, and its memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tenreo.errors import TenreoError


def choose_device(name: str) -> torch.device:
    """The device of a name: auto, cpu, cuda, cuda:N, mps.

    Raises:
        TenreoError: when the name is unknown or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TenreoError(f"device: given {name!r}, needs auto, cpu, cuda, cuda:N or mps") from error
    missing = (
        (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
        or (device.type == "mps" and not torch.backends.mps.is_available())
        or device.type not in ("cpu", "cuda", "mps")
    )
    if missing:
        raise TenreoError(f"device: {name} is not available here; choose cpu, or auto")
    return device


@contextmanager
def memory_named(batch_size: int) -> Iterator[None]:
    """Turn running out of memory, the GPU's or the machine's, into an error that names a smaller batch size."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own is a RuntimeError
        gpu = isinstance(error, torch.OutOfMemoryError)
        if not (gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)):
            raise
        raise TenreoError(
            f"the {'GPU' if gpu else 'machine'} has not enough memory for batch size {batch_size}; "
            f"try batch size {max(1, batch_size // 2)}"
        ) from error


def half(device: torch.device) -> torch.dtype:
    """The 16-bit type to compute in: bfloat16, or float16 on a GPU that has none."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest point: of the GPU's allocations, or else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
