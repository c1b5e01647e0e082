"""Limits on building a model that a file names, so that a small file causes no long computation or large allocation."""

import ctypes
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tenreo.errors import TenreoError, shown
from tenreo.files.header import Header

_MODULES = 1000
_MODULES_PER_TENSOR = 10  # models of timm and torchvision have at most 3.3
_LARGEST = 2048  # numbers in arguments; larger ones must be a dimension of a tensor
_ELEMENTS = 2**26
_ELEMENTS_PER_BYTE = 1024  # elements of dense weights per byte of a file; strongly compressed files have up to 100
_SECONDS = 30.0


@contextmanager
def limited_by(header: Header) -> Iterator[None]:
    """Inside the context, a model may be built that is not much larger than what a file contains.

    Limits are the number of modules, the elements of each tensor that takes memory, the numbers among the arguments,
    and the time.

    Args:
        header: header of the file that names the model.

    Raises:
        TenreoError: naming the limit that building the model, in the thread of the caller, has exceeded.
    """
    name, thread = f"{header.path}: {header.info.name}", threading.get_ident()
    shapes = header.dense_shapes()
    elements = sum(map(math.prod, shapes.values()))
    if elements > _ELEMENTS + _ELEMENTS_PER_BYTE * header.size:
        raise TenreoError(
            f"{header.path}: describes weights of {elements:,} elements in a file of {header.size:,} bytes; "
            "the file is damaged"
        )
    _check_numbers(header, max((n for shape in shapes.values() for n in shape), default=0))
    allowed = modules = _MODULES + _MODULES_PER_TENSOR * len(shapes)

    def count(*_: Any) -> None:
        """Count a created module, and raise if there are too many."""
        nonlocal allowed
        allowed -= threading.get_ident() == thread
        if allowed < 0:
            raise TenreoError(
                f"{name} has more than {modules:,} modules, but the file contains only {len(shapes):,} tensors; "
                "its arguments do not fit its tensors"
            )

    hook = register_module_module_registration_hook(count)
    try:
        with _time_limit(name), _SmallTensors(name, _ELEMENTS + elements):
            yield
    finally:
        hook.remove()


def _check_numbers(header: Header, largest: int) -> None:
    """Raise if an argument of the builder is a larger number than any dimension of the file's tensors."""
    for key, value in header.info.kwargs.items():
        numbers = [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, (int, float))]
        if any(abs(number) > max(_LARGEST, largest) for number in numbers):
            raise TenreoError(
                f"{header.path}: the argument {key} of {header.info.name} is {shown(value)}, but no dimension of the "
                f"file's tensors is larger than {largest:,}"
            )


class _SmallTensors(TorchDispatchMode):
    """Context in which no operation creates a tensor in memory that has more than `most` elements."""

    def __init__(self, name: str, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name, self.most = name, most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._elements(func, args, kwargs) > self.most:
            raise TenreoError(f"{self.name} computes a tensor of more than {self.most:,} elements while it is built")
        return func(*args, **kwargs)

    def _elements(self, func: Any, args: Any, kwargs: Any) -> int:
        """Return the number of elements of an operation's largest result in memory; 0 if it is not known before."""
        if func._schema.is_mutable:  # the result is an argument
            return 0
        if any(each.is_meta for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)):
            return 0
        if str(kwargs.get("device")) == "meta":
            return 0
        args, kwargs = tree_map_only(Tensor, lambda x: torch.empty_like(x, device="meta"), (args, kwargs))
        if any(argument.name == "device" for argument in func._schema.arguments):
            kwargs["device"] = "meta"
        try:
            results = tree_leaves(func(*args, **kwargs))
        except Exception:  # operations that read values are not possible on the meta device, and return single numbers
            return 0
        return max((each.numel() for each in results if isinstance(each, Tensor)), default=0)


class _TooLongError(TenreoError):
    """Building a model has taken too long."""


@contextmanager
def _time_limit(name: str) -> Iterator[None]:
    """Raise TenreoError if the Python code in the context takes longer than half a minute."""
    thread, lock, done = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False

    def stop(error: Any) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)

    def expire() -> None:
        with lock:
            if not done:
                stop(ctypes.py_object(_TooLongError))

    timer = threading.Timer(_SECONDS, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _TooLongError:
        raise TenreoError(f"{name} takes more than {_SECONDS:.0f} seconds to build; the file is not loaded") from None
    finally:
        timer.cancel()
        with lock:
            done = True
            stop(None)  # an exception that was set, but not raised yet
