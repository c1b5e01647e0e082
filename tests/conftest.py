"""Fixtures for the processes that run tests, and the order of the tests.

pytest-xdist's main process only distributes tests, so it does not import torch before it starts the workers.
"""

import gc
from pathlib import Path

# Tests that compile the codec come first, so one worker compiles it, and then the others find it in the cache.
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


gc.disable()  # until all tests are collected: the modules and tests stay, and looking through them takes seconds


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Sort the tests by their folders in ORDER; those of other folders are last."""

    def rank(item):
        place = item.path.relative_to(Path(__file__).parent).parts[0]
        return next((i for i, name in enumerate(ORDER) if place.startswith(name)), len(ORDER))

    items.sort(key=rank)


def pytest_configure(config):
    """Load the fixtures in the processes that run tests, whose tests are not distributed."""
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("shared_fixtures")
