"""Devices: choosing one by name, its 16-bit data type and its memory."""

import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from tenreo.errors import OutOfMemoryError, TenreoError, raise_if_out_of_memory


def choose_device(name: str, fixed_shapes: bool = False) -> torch.device:
    """Return the device of a name: auto, cpu, cuda, cuda:N or mps; a GPU of CUDA becomes torch's current one.

    Args:
        name: name of the device.
        fixed_shapes: whether the model will run often on inputs of one shape. cuDNN then chooses its kernels by
            measuring them, which it does again for every other shape.

    Raises:
        TenreoError: if the name is unknown or the device is not available.
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
        raise TenreoError(f"device: {name} is not available on this machine; choose cpu or auto")
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        torch.backends.cudnn.benchmark = fixed_shapes
    return device


@contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Convert an out-of-memory error of the GPU or the machine to a TenreoError that suggests a smaller batch size."""
    try:
        yield
    except Exception as error:
        try:
            raise_if_out_of_memory(error)
        except OutOfMemoryError:
            gpu = any(isinstance(each, torch.OutOfMemoryError) for each in (error, error.__cause__))
            raise OutOfMemoryError(
                f"the {'GPU' if gpu else 'machine'} does not have enough memory for batch size {batch_size}; "
                f"try batch size {max(1, batch_size // 2)}"
            ) from error
        raise


@contextmanager
def public_function() -> Iterator[None]:
    """Decorate a public function: whatever the caller's modes are, its tensors can be trained and have full precision.

    It runs outside of inference mode and autocast, and raises an OutOfMemoryError if memory does not suffice.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        try:
            yield
        except Exception as error:
            raise_if_out_of_memory(error)
            raise


def half_dtype(device: torch.device) -> torch.dtype:
    """Return the 16-bit data type for autocast: bfloat16, or float16 on a GPU without bfloat16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the allocations on a GPU, or else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
