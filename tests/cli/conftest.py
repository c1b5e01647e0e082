import importlib

import pytest
from processes import COMMANDS, here


@pytest.fixture
def parsed(monkeypatch):
    """parsed(command, *arguments): the option dataclasses that the command's body receives; the body is not run."""

    def parse(command, *arguments):
        received = []
        module = importlib.import_module(f"tenreo.cli.commands.{command}")
        body = importlib.import_module(f"tenreo.cli.run.{command}")
        monkeypatch.setattr(body, COMMANDS[command], lambda *parts: received.append(parts))
        monkeypatch.setattr(module, "check", lambda *parts: None)
        done = here(command, *arguments)
        assert len(received) == 1 and not done.stdout
        return received[0]

    return parse
