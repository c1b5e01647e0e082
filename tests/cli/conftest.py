import importlib

import pytest
from processes import here

from tenreo.cli import checks


@pytest.fixture
def parsed(monkeypatch):
    """parsed(command, *typed): the dataclasses that the command's body would get, which does nothing.

    Nothing is checked before.
    """

    def parse(command, *typed):
        taken = []
        monkeypatch.setattr(
            importlib.import_module(f"tenreo.cli.run.{command}"), "run", lambda *parts: taken.append(parts)
        )
        monkeypatch.setattr(checks, f"before_{command}", lambda *parts: None, raising=False)
        done = here(command, *typed)
        assert len(taken) == 1 and not done.stdout
        return taken[0]

    return parse
