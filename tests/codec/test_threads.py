import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from torch import nn

import tenreo
from tenreo.codec.threads import PART, Crew, share


def test_alone_the_loop_is_done_in_this_thread():
    done, threads = [], set()

    def work(first, last):
        done.extend(range(first, last))
        threads.add(threading.get_ident())

    share(2 * PART + 5, work)
    assert done == list(range(2 * PART + 5)) and threads == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_crew_does_every_turn_once(threads):
    times = np.zeros(20 * PART + 7, np.int64)
    workers = set()

    def work(first, last):
        time.sleep(0.002)  # lets the others come
        times[first:last] += 1
        workers.add(threading.get_ident())

    crew = Crew(threads, lambda: None)
    crew.executor.submit(share, len(times), work).result()
    crew.stop()
    assert (times == 1).all() and len(workers) == threads


def test_an_error_in_any_part_is_raised():
    def work(first, last):
        time.sleep(0.002)
        if first >= 5 * PART:
            raise ZeroDivisionError

    crew = Crew(3, lambda: None)
    with pytest.raises(ZeroDivisionError):
        crew.executor.submit(share, 9 * PART, work).result()
    crew.stop()


def test_a_stopped_crew_ends_in_the_midst_of_a_loop():
    begun, parts = threading.Event(), []

    def work(first, last):
        begun.set()
        parts.append(first)
        time.sleep(0.01)

    crew = Crew(2, lambda: None)
    running = crew.executor.submit(share, 10_000 * PART, work)
    begun.wait()
    crew.stop()
    with pytest.raises(CancelledError):
        running.result(timeout=10)
    assert len(parts) < 100


def test_one_layer_is_the_same_whatever_the_threads_and_tells_how_far_it_is():
    weight = torch.randn(400, 800, generator=torch.Generator().manual_seed(0))
    found, heard = [], []
    for jobs in (1, 3):
        model = nn.Sequential(nn.Linear(800, 400, bias=False))
        model[0].weight.data = weight.clone()
        tenreo.compress_(
            model, tenreo.Recipe(4, tenreo.Uniform(10.0)), jobs=jobs,
            within=lambda layer, part: heard.append((layer.name, part)),
        )  # fmt: skip
        found.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in found), strict=True))
    assert {name for name, _ in heard} == {"0"} and all(0 <= part < 1 for _, part in heard)
    assert max(part for _, part in heard) > 0.7
    assert any(part == pytest.approx(3 / 12) for _, part in heard)  # the fourth of eleven rounds begins
