"""Errors of torch.compile, explained."""

from collections.abc import Iterator
from contextlib import contextmanager

from tenreo.errors import TenreoError, raise_if_out_of_memory
from tenreo.exporting.programs import first_line
from tenreo.training.observer import Observer

_COMPILER = ("torch._dynamo", "torch._inductor")  # modules of its errors, which have no common base class


@contextmanager
def explain_compiler(observer: Observer) -> Iterator[None]:
    """Convert an error of torch.compile, which compiles during the first steps, to a TenreoError of one line.

    Raises:
        KeyboardInterrupt: if the run is to stop, because Ctrl-C ends a C++ compiler as well.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(_COMPILER):
            raise
        if observer.should_stop():
            raise KeyboardInterrupt from error
        raise_if_out_of_memory(error)
        reason = getattr(error, "inner_exception", error)
        raise TenreoError(
            f"compile: torch.compile cannot compile the model: {first_line(reason)}; install the C++ compiler that it "
            "needs, or leave out compile"
        ) from error
