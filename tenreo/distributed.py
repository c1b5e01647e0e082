"""Several processes that torchrun starts: ranks, sums over processes, gradient averaging."""

import os
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tenreo.errors import TenreoError

_T = TypeVar("_T")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that work on one model together.

    Attributes:
        rank: index of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and shows progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place; every process gets the same result."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Return when all processes have called this function."""
        self.sum(torch.zeros(1))

    def gather(self, items: list[_T]) -> list[_T]:
        """Return the items of all processes, those of one process after those of another."""
        if self.size == 1:
            return items
        gathered: list[list[_T]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(gathered, items)
        return [item for several in gathered for item in several]

    def union(self, items: set[_T]) -> set[_T]:
        """Return the union of the sets of all processes."""
        return set(self.gather(list(items)))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy the tensors of the main process to all processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def wrap(self, model: nn.Module, device: torch.device, sync_batchnorm: bool) -> nn.Module:
        """Return the model itself, or with several processes a model that averages gradients over the processes.

        The processes exchange the gradients of parameters and the floating-point buffers of the main process.
        Positions are equal in all processes and are not exchanged.

        Args:
            model: model on the device; modified in place if BatchNorm is synchronized.
            device: device of the model.
            sync_batchnorm: whether BatchNorm computes its statistics over all processes.

        Raises:
            TenreoError: if BatchNorm is to be synchronized without CUDA, which torch does not support.
        """
        if self.size == 1:
            return model
        if sync_batchnorm:
            if device.type != "cuda":
                raise TenreoError("sync_batchnorm: torch supports it on CUDA only; leave it out")
            # This replaces the BatchNorms inside the model, with the same parameters and buffers.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        integers = [name for name, buffer in model.named_buffers() if not buffer.is_floating_point()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, integers)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


SINGLE_PROCESS = ProcessGroup()


def local_gradients(engine: nn.Module) -> AbstractContextManager[None]:
    """Accumulate gradients inside the context without averaging them over the processes.

    The next backward pass outside the context averages the accumulated gradients.

    Args:
        engine: result of `ProcessGroup.wrap`, compiled or not.
    """
    engine = getattr(engine, "_orig_mod", engine)
    return engine.no_sync() if isinstance(engine, DistributedDataParallel) else nullcontext()


def local_device(name: str) -> str:
    """Return the name of the GPU of this process if several processes run on "auto" or "cuda", else the name itself.

    Raises:
        TenreoError: if the environment variables of torchrun are missing or invalid.
    """
    if _world_size() > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{_environment('LOCAL_RANK')}"
    return name


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the process group of torchrun, if it started this process; nccl on CUDA, gloo otherwise.

    Yields:
        The process group; without torchrun, a group of one process.

    Raises:
        TenreoError: if the processes cannot connect to each other, or another process has ended.
    """
    size = _world_size()
    if size == 1:
        yield SINGLE_PROCESS
        return
    rank = _environment("RANK")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        # nccl refuses tensors on the CPU, which the processes exchange as well.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise TenreoError(f"the {size} processes cannot connect to each other: {why}; {_HINT}") from error
    try:
        group = ProcessGroup(rank, size)
        if device.type == "cuda":
            check_own_gpus(group.gather([f"{torch.cuda.current_device()} of {socket.gethostname()}"]))
        with watched(group) if device.type == "cuda" else nullcontext():
            yield group
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        if not isinstance(error, distributed.DistError) and "gloo" not in why:
            raise
        raise TenreoError(f"another process {_ENDED} ({why})") from error
    # Not after an error: destroying the group would wait for processes that may have ended.
    distributed.destroy_process_group()


@contextmanager
def watched(group: ProcessGroup, seconds: float = 10.0) -> Iterator[None]:
    """End this process inside the context, with a message, soon after the process of the next rank has ended.

    nccl does not notice a lost process, so that a process which waits for its GPU would wait for ten minutes, and then
    be aborted with a stack trace. Here a thread waits for a message of the next rank, which comes at the end of the
    context; gloo ends this waiting as soon as the connection is lost. A process may be slow as long as it lives.

    Args:
        group: the processes, which must all call this function.
        seconds: time in which this process may end by itself, with an error that says more.
    """
    left, right = ((group.rank + step) % group.size for step in (-1, 1))
    connection: Any = distributed.new_group(backend="gloo", timeout=timedelta(days=365))
    ended = threading.Event()

    def wait() -> None:
        """End this process soon after the next one has been lost."""
        try:
            distributed.recv(torch.zeros(1), right, group=connection)
        except RuntimeError:
            if not ended.wait(seconds):
                sys.stderr.write(f"process {group.rank} of {group.size}: error: process {right} {_ENDED}\n")
                sys.stderr.flush()
                os._exit(1)  # the main thread cannot be interrupted while it waits for its GPU

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
        distributed.send(torch.zeros(1), left, group=connection)
        thread.join()
    finally:
        ended.set()


def check_own_gpus(gpus: list[str]) -> None:
    """Raise unless every process has a GPU of its own, as nccl needs; `gpus` names that of each process."""
    for rank, gpu in enumerate(gpus):
        if (first := gpus.index(gpu)) < rank:
            raise TenreoError(
                f"device: the processes {first} and {rank} both use GPU {gpu}, needs a GPU for each; choose auto, and "
                "start at most one process per GPU"
            )


_ENDED = "of the run has ended; see its error message"
_HINT = "start several processes with torchrun, or unset WORLD_SIZE"


def _world_size() -> int:
    return _environment("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1


def _environment(name: str) -> int:
    """Return the integer value of an environment variable that torchrun sets."""
    value = os.environ.get(name, "nothing")
    if not value.isdecimal():
        raise TenreoError(f"{name}: given {value} in the environment, needs a number; {_HINT}")
    return int(value)
