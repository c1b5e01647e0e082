"""The processes of a run, as torchrun starts them: who is who, and exact sums over all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tenreo.errors import TenreoError

_T = TypeVar("_T")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train one model together.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place; every one gets the same numbers."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def union(self, names: set[_T]) -> set[_T]:
        """What any of the processes has, in every one of them."""
        if self.size == 1:
            return names
        parts: list[set[_T]] = [set() for _ in range(self.size)]
        distributed.all_gather_object(parts, names)
        return set().union(*parts)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the tensors of the first one, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def wrap(self, model: nn.Module, device: torch.device, sync_batchnorm: bool) -> nn.Module:
        """The model to train with: itself alone, or one whose gradients are averaged over processes.

        Gradients of parameters alone travel, and the running statistics of the first process; positions
        are the same everywhere and stay at home.

        Raises:
            TenreoError: when BatchNorm is to be synchronized without CUDA, which torch can not.
        """
        if self.size == 1:
            return model
        if sync_batchnorm:
            if device.type != "cuda":
                raise TenreoError("sync_batchnorm: torch has it on CUDA alone; leave it out here")
            # In place, and the old BatchNorms' own parameters and buffers.
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        fixed = [name for name, buffer in model.named_buffers() if not buffer.is_floating_point()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, fixed)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


ALONE = ProcessGroup()


def local_gradients(engine: nn.Module) -> AbstractContextManager[None]:
    """Inside the context gradients stay in their process; the next backward pass outside it averages their sum.

    Args:
        engine: what `ProcessGroup.wrap` returned, perhaps compiled.
    """
    engine = getattr(engine, "_orig_mod", engine)
    return engine.no_sync() if isinstance(engine, DistributedDataParallel) else nullcontext()


def local_device(name: str) -> str:
    """The device of this process where a name leaves it open: its own GPU of several.

    Raises:
        TenreoError: when the environment does not say which process this is.
    """
    if _size() > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{_environment('LOCAL_RANK')}"
    return name


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, or be alone; nccl on CUDA, gloo otherwise.

    Raises:
        TenreoError: when the processes do not find each other, or another one is gone.
    """
    size = _size()
    if size == 1:
        yield ALONE
        return
    rank = _environment("RANK")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise TenreoError(f"the {size} processes do not find each other: {why}; {_START}") from error
    try:
        yield ProcessGroup(rank, size)
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        if not isinstance(error, distributed.DistError) and "gloo" not in why:
            raise
        raise TenreoError(f"another process of the run has ended; its message says why ({why})") from error
    # After an error there is nobody to say goodbye to: leaving would wait for the others.
    distributed.destroy_process_group()


_START = "start several with torchrun, or one with WORLD_SIZE unset"


def _size() -> int:
    return _environment("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1


def _environment(name: str) -> int:
    """A number that torchrun puts into the environment."""
    value = os.environ.get(name, "nothing")
    if not value.isdecimal():
        raise TenreoError(f"{name}: given {value} in the environment, needs a number; {_START}")
    return int(value)
