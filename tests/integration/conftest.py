"""What integration tests of one theme share over several files."""

from __future__ import annotations

import pytest
from command_line import Program

# ---- the command line


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program, in this process."""
    monkeypatch.setenv("COLUMNS", "120")
    return Program(monkeypatch, capsys)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded is work done for nothing."""
    monkeypatch.setattr("sencache.models.model.load", lambda *_: pytest.fail("the model was loaded"))
