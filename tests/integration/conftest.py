"""What integration tests of one theme share over several files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fake_hub
import huggingface_hub.constants
import pytest
from command_line import Program
from fake_hub import FakeHub
from hub_profiles import CONTENT, FILE, REPO

from sencache.hub.download import Hub

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


# ---- a Hub with a profile


@pytest.fixture
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would ask the real Hub whose program this is."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)


@pytest.fixture
def server() -> Iterator[FakeHub]:
    """A Hub on this machine."""
    with fake_hub.running() as hub:
        yield hub


@pytest.fixture
def revision(server: FakeHub) -> str:
    """The commit that holds the profile."""
    return server.add(REPO, {FILE: CONTENT})


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Hub:
    """The client's side, with a cache of its own."""
    # Long enough for a loaded machine, far shorter than the answers that never come.
    return Hub(server.endpoint, tmp_path / "kept", timeout=10.0, deadline=30.0)


# ---- a checkpoint on disk


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Wan; tests that change it change a copy."""
    import layouts

    return layouts.save("wan", tmp_path_factory.mktemp("saved") / "wan")
