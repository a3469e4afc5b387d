"""A profile on the Hub, how to ask for it, and answers that a Hub should not give."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_hub import Fault, Handler

from sencache.errors import SencacheError
from sencache.hub.download import Hub
from sencache.hub.exchange import pull_profile
from sencache.policies.loading import load_profile
from sencache.profiles.library import bundled_profile
from sencache.profiles.profile import Profile

REPO, FILE = "someone/profiles", "tiny.json"
OWN = load_profile(bundled_profile("tiny-wan.unipc-50"))
CONTENT = OWN.to_json().encode()
NOWHERE = "0" * 40


def pull(hub: Hub, revision: str, file: str = FILE, repo: str = REPO) -> Profile:
    return pull_profile(file, repo, revision, unlisted=True, hub=hub)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def refusal(action: Callable[[], object]) -> str:
    """What is said: one sentence on one line."""
    with pytest.raises(SencacheError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


def npz(last: int = 92) -> bytes:
    archive = io.BytesIO()
    x, t = np.linspace(1.03, 31.93, 50), np.linspace(30.9, 1.95, 50)
    timesteps = np.linspace(999, last, 50).astype(np.int64)
    np.savez(archive, timesteps=timesteps, J_x_norm=x.astype("f4"), J_t_norm=t.astype("f4"))
    return archive.getvalue()


def on(method: str, act: Callable[[Handler], object]) -> Fault:
    def fault(handler: Handler) -> bool:
        if handler.command == method:
            act(handler)
            return True
        return False

    return fault


def status(code: int, **headers: str) -> Callable[[Handler], object]:
    return lambda handler: handler.answer(code, b"{}", **headers)


def page(handler: Handler) -> None:
    handler.answer(200, b"<html>Sign in to the guest network</html>", Content_Type="text/html")
