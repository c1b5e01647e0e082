"""Fixtures for the processes that run tests, and the order of the tests.

pytest-xdist's main process only distributes tests, so it does not import torch before it starts the workers.
"""

import gc
from pathlib import Path

# The first tests compile the codec for the tests of all workers.
ORDER = (
    "codec",
    "compression",
    "correction",
    "planning",
    "test_torch_modes",
    "cli",
    "test_",
    "files",
    "models",
    "data",
)
# Tests without the codec are in the middle, where a second worker starts, so that it need not compile the same.
WITHOUT = (
    "data/test_images", "data/test_layouts", "files/test_pickles", "files/test_formats", "models/test_name",
    "models/test_model_info", "models/test_find_input", "test_rooms", "test_options", "cli/test_checks",
    "models/test_pretrained",
)  # fmt: skip


gc.disable()  # until all tests are collected: the modules and tests stay, and looking through them takes seconds


def pytest_collection_finish():
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)  # collections after every 700 new objects take a tenth of all time
    gc.enable()


def pytest_collection_modifyitems(items):
    """Sort the tests by ORDER, with those of WITHOUT in the middle."""

    def rank(item, order):
        place = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((i for i, name in enumerate(order) if place.startswith(name)), len(order))

    middle = len(items) // 2
    without = [x for x in items if rank(x, WITHOUT) < len(WITHOUT)]
    others = sorted((x for x in items if rank(x, WITHOUT) == len(WITHOUT)), key=lambda x: rank(x, ORDER))
    items[:] = others[:middle] + sorted(without, key=lambda x: rank(x, WITHOUT)) + others[middle:]


def pytest_configure(config):
    """Load the fixtures in the processes that run tests, whose tests are not distributed."""
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("shared_fixtures")
