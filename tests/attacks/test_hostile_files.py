"""Every hostile file is refused with the code of its fault, in one printable line; nothing in it is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import hostile_archives
import hostile_profiles
import numpy as np
import pytest
from hostile_archives import J_X, Payload, holding, npy, objects

from sencache.errors import SencacheError
from sencache.hub.npz import import_npz
from sencache.policies.loading import load_profile
from sencache.profiles.profile import Profile

WAN: dict[str, Any] = {"model": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "shift": 5.0, "latent": (16, 21, 60, 104)}
TABLES = {"theirs.json": hostile_profiles, "theirs.npz": hostile_archives}
GROUPS = [(name, group.__name__) for name, table in TABLES.items() for group in table.GROUPS]


def load(path: Path) -> Profile:
    return import_npz(path, **WAN) if path.suffix == ".npz" else load_profile(path)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_what_they_were_made_from_is_read(nothing_stays: Path) -> None:
    assert load(written(nothing_stays / "mine.json", hostile_profiles.SOUND)).schedule.steps == 50
    table = load(written(nothing_stays / "mine.npz", hostile_archives.SOUND)).sensitivity
    assert table is not None and table.alpha_x == tuple(J_X.tolist())


def test_the_payloads_are_live(nothing_stays: Path) -> None:
    """Else refusing them would prove nothing."""
    owned, path = nothing_stays / "OWNED-by-pickle", nothing_stays / "theirs.npz"
    pickle.loads(pickle.dumps(Payload()))
    owned.unlink()
    with np.load(written(path, holding("J_x_norm", objects())), allow_pickle=True) as arrays:
        arrays["J_x_norm"]
    owned.unlink()


@pytest.mark.parametrize(("name", "group"), GROUPS)
def test_they_are_refused(
    name: str, group: str, nothing_stays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("something was unpickled"))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("NumPy was asked to read it"))
    path, cases = nothing_stays / name, TABLES[name].CASES
    for case in (case for case in cases if case.startswith(f"{group}: ")):
        content, code = cases[case]
        with pytest.raises(SencacheError) as caught:
            load(written(path, content))
        message = str(caught.value)
        assert caught.value.code == code, (case, message)
        assert message.isprintable() and len(message) < 1000 and ";" in message, case
        assert os.listdir(nothing_stays) == [name] and path.read_bytes() == content, case


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">f8", ">i8", "<u2"])
def test_plain_numbers_of_any_kind_are_read(dtype: str, nothing_stays: Path) -> None:
    values = (J_X * 4).astype(dtype)
    table = load(written(nothing_stays / "mine.npz", holding("J_x_norm", npy(values)))).sensitivity
    assert table is not None and table.alpha_x == tuple(values.astype(float).tolist())
