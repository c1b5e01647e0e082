import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from torch import nn

import tenreo
from tenreo.codec.threads import CHUNK, SINGLE_THREADED, Task, ThreadPool


def test_a_task_without_a_pool_runs_loops_in_the_calling_thread():
    done, threads = [], set()

    def work(first, last):
        done.extend(range(first, last))
        threads.add(threading.get_ident())

    SINGLE_THREADED.run_chunks(2 * CHUNK + 5, work)
    assert done == list(range(2 * CHUNK + 5)) and threads == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_pool_runs_every_iteration_once(threads):
    times = np.zeros(20 * CHUNK + 7, np.int64)
    workers = set()

    def work(first, last):
        time.sleep(0.002)  # gives the other threads time to start
        times[first:last] += 1
        workers.add(threading.get_ident())

    pool = ThreadPool(threads)
    pool.executor.submit(Task(pool).run_chunks, len(times), work).result()
    pool.stop()
    assert (times == 1).all() and len(workers) == threads


def test_an_error_in_any_chunk_is_raised():
    def work(first, last):
        time.sleep(0.002)
        if first >= 5 * CHUNK:
            raise ZeroDivisionError

    pool = ThreadPool(3)
    with pytest.raises(ZeroDivisionError):
        pool.executor.submit(Task(pool).run_chunks, 9 * CHUNK, work).result()
    pool.stop()


def test_stopping_a_pool_cancels_a_running_loop():
    started, chunks = threading.Event(), []

    def work(first, last):
        started.set()
        chunks.append(first)
        time.sleep(0.01)

    pool = ThreadPool(2)
    running = pool.executor.submit(Task(pool).run_chunks, 10_000 * CHUNK, work)
    started.wait()
    pool.stop()
    with pytest.raises(CancelledError):
        running.result(timeout=10)
    assert len(chunks) < 100


def test_the_bytes_of_a_layer_do_not_depend_on_the_threads_and_progress_is_reported():
    weight = torch.randn(400, 800, generator=torch.Generator().manual_seed(0))
    states, reports = [], []
    for jobs in (1, 3):
        model = nn.Sequential(nn.Linear(800, 400, bias=False))
        model[0].weight.data = weight.clone()
        tenreo.compress_(
            model, tenreo.Recipe(4, tenreo.Uniform(10.0)), jobs=jobs,
            within=lambda layer, fraction: reports.append((layer.name, fraction)),
        )  # fmt: skip
        states.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    assert {name for name, _ in reports} == {"0"} and all(0 <= fraction < 1 for _, fraction in reports)
    assert max(fraction for _, fraction in reports) > 0.7
    assert any(fraction == pytest.approx(3 / 12) for _, fraction in reports)  # at the start of the fourth of 11 rounds
