"""Fixtures for the processes that run tests, and the order of the tests.

pytest-xdist's main process only distributes tests, so it does not import torch before it starts the workers.
"""

import gc
from pathlib import Path

# The first tests compile the codec for the tests of all workers; those of the folders WITHOUT need it late or never.
ORDER = ("codec", "compression", "correction", "planning", "test_torch_modes", "cli", "test_", "files")
WITHOUT = ("data", "models")


gc.disable()  # until all tests are collected: the modules and tests stay, and looking through them takes seconds


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Sort the tests by their folders in ORDER, with those of WITHOUT in the middle, where a second worker starts."""

    def folder(item):
        return item.path.relative_to(Path(__file__).parent).parts[0]

    def rank(item):
        return next((i for i, name in enumerate(ORDER) if folder(item).startswith(name)), len(ORDER))

    middle = len(items) // 2
    without = [x for x in items if folder(x) in WITHOUT]
    others = sorted((x for x in items if folder(x) not in WITHOUT), key=rank)
    items[:] = others[:middle] + without + others[middle:]


def pytest_configure(config):
    """Load the fixtures in the processes that run tests, whose tests are not distributed."""
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("shared_fixtures")
