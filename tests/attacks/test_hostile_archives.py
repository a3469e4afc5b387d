"""Every hostile sensitivity file is refused: with the code of its fault, and nothing in it is ever run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_archives import CASES, GROUPS, J_X, SOUND, Payload, holding, npy, objects

from sencache.errors import SencacheError
from sencache.hub.npz import import_npz
from sencache.profiles.profile import Profile

WAN: dict[str, Any] = {"model": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "shift": 5.0, "latent": (16, 21, 60, 104)}


def taken_in(path: Path) -> Profile:
    return import_npz(path, **WAN)


def test_the_cases_are_many_and_no_two_are_one() -> None:
    assert len(CASES) == sum(len(list(group())) for group in GROUPS) >= 200
    assert len({content for content, _ in CASES.values()}) > len(CASES) - 10


def test_what_they_were_made_from_is_taken_in(nothing_stays: Path) -> None:
    path = nothing_stays / "mine.npz"
    path.write_bytes(SOUND)
    profile = taken_in(path)
    assert profile.sensitivity is not None and profile.sensitivity.alpha_x == tuple(J_X.tolist())


def test_the_payloads_are_live(nothing_stays: Path) -> None:
    """Else refusing them would prove nothing."""
    owned = nothing_stays / "OWNED-by-pickle"
    pickle.loads(pickle.dumps(Payload()))
    assert owned.exists()
    owned.unlink()
    with np.load(archive(nothing_stays, holding("J_x_norm", objects())), allow_pickle=True) as arrays:
        arrays["J_x_norm"]
    assert owned.exists()
    owned.unlink()


def archive(folder: Path, content: bytes) -> Path:
    path = folder / "theirs.npz"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name: str, nothing_stays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, code = CASES[name]
    path = archive(nothing_stays, content)
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("something was unpickled"))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("NumPy was asked to read it"))
    with pytest.raises(SencacheError) as caught:
        taken_in(path)
    message = str(caught.value)
    assert caught.value.code == code, message
    assert message.isprintable() and len(message) < 1000 and ";" in message
    assert os.listdir(nothing_stays) == ["theirs.npz"] and path.read_bytes() == content


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", ">f8", "<i4", ">i8", "<u2"])
def test_plain_numbers_of_any_kind_are_read(dtype: str, nothing_stays: Path) -> None:
    values = (J_X * 4).astype(dtype)
    profile = taken_in(archive(nothing_stays, holding("J_x_norm", npy(values))))
    assert profile.sensitivity is not None
    assert profile.sensitivity.alpha_x == tuple(values.astype(float).tolist())
