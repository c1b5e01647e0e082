"""A pool of threads that encode the layers of a model or of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from tenreo.codec.threads import Task, ThreadPool, usable_cores
from tenreo.planning.layers import LayerPlan

WeightOf = Callable[[LayerPlan], Tensor]
_INTERVAL = 0.2  # seconds between two checks of the progress within layers


class LayerPool:
    """Threads that encode the layers of a plan; idle ones help with the layers that are not finished.

    Each thread uses one thread of torch: with several, FFTs and sums would add in another order, so the encoded bytes
    would depend on their number.

    Args:
        weight_of: function that returns the dense weight of a planned layer; it is called in the threads.
        jobs, progress, within: as for `compress_`.
    """

    def __init__(
        self, weight_of: WeightOf, jobs: int | None, progress: Callable[[LayerPlan], None] | None,
        within: Callable[[LayerPlan, float], None] | None,
    ) -> None:  # fmt: skip
        self.weight_of, self.jobs, self.progress, self.within = weight_of, jobs, progress, within
        self.reports: SimpleQueue[tuple[LayerPlan, float]] = SimpleQueue()
        self.torch_threads = torch.get_num_threads()
        self.threads = ThreadPool(jobs or usable_cores(), lambda: torch.set_num_threads(1))

    def __enter__(self) -> LayerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.stop()
        torch.set_num_threads(self.torch_threads)  # threads that are created later begin with this number

    def each(self, function: Callable[..., Any], layers: Sequence[LayerPlan], *arguments: Any) -> dict[str, Any]:
        """Return function(weight, layer, task, *arguments) for every layer, by name of the layer."""

        def work(layer: LayerPlan) -> Any:
            return function(self.weight_of(layer), layer, self._task(layer), *arguments)

        # Largest first, so that the last layer to finish is a small one.
        ordered = sorted(layers, key=lambda layer: -layer.columns)
        submit = self.threads.executor.submit
        futures = {submit(work, layer): layer for layer in ordered}
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, _INTERVAL, FIRST_COMPLETED)
            while self.within is not None and not self.reports.empty():
                self.within(*self.reports.get())
            for future in finished:
                future.result()
                if self.progress is not None:
                    self.progress(futures[future])
        return {layer.name: future.result() for future, layer in futures.items()}

    def _task(self, layer: LayerPlan) -> Task:
        report = None if self.within is None else lambda fraction: self.reports.put((layer, fraction))
        return Task(self.threads, report)

    def once(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return function(*arguments), called in one of the threads."""
        return self.threads.executor.submit(function, *arguments).result()
