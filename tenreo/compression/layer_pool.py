"""Threads that work on the layers of a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import torch
from torch import nn

from tenreo.codec.threads import Crew, listen
from tenreo.planning.layers import LayerPlan

_LOOK = 0.2  # seconds between looks at how far layers are


class LayerPool:
    """Threads that work on the layers of a model, and together on the last ones, each with one thread of torch's.

    With several of those, FFTs and sums add in another order, so what is written would depend on their number.

    Args:
        model: whose layers they are.
        jobs: layers at a time; None takes one per core.
        progress: called with every layer that is done, from the calling thread.
        within: called now and then with a layer and the share of it that is done.
    """

    def __init__(
        self, model: nn.Module, jobs: int | None, progress: Callable[[LayerPlan], None] | None,
        within: Callable[[LayerPlan, float], None] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.progress, self.within = model, progress, within
        self.heard: SimpleQueue[tuple[LayerPlan, float]] = SimpleQueue()
        self.torch_threads = torch.get_num_threads()
        self.crew = Crew(jobs or os.cpu_count() or 1, lambda: torch.set_num_threads(1))

    def __enter__(self) -> LayerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.crew.stop()
        torch.set_num_threads(self.torch_threads)  # of threads that start later: each has a number of its own

    def each(self, task: Callable[..., Any], layers: Sequence[LayerPlan], *arguments: Any) -> dict[str, Any]:
        """What task(model, layer, *arguments) returns, by name of the layer."""
        # Largest first: the last layer to finish is then a small one.
        ordered = sorted(layers, key=lambda layer: -layer.columns)
        tasks = {self.crew.executor.submit(self._heard, task, layer, *arguments): layer for layer in ordered}
        pending = set(tasks)
        while pending:
            finished, pending = wait(pending, _LOOK, FIRST_COMPLETED)
            while self.within is not None and not self.heard.empty():
                self.within(*self.heard.get())
            for done in finished:
                done.result()
                if self.progress is not None:
                    self.progress(tasks[done])
        return {layer.name: done.result() for done, layer in tasks.items()}

    def _heard(self, task: Callable[..., Any], layer: LayerPlan, *arguments: Any) -> Any:
        listen(None if self.within is None else lambda share: self.heard.put((layer, share)))
        return task(self.model, layer, *arguments)

    def once(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """What a task returns, in one of the threads."""
        return self.crew.executor.submit(task, *arguments).result()
