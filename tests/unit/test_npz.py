"""What an official file of sensitivities becomes, and any other as it is stated to be."""

from __future__ import annotations

import hashlib
import io
import math
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npz_files import STATED, WAN, WAN_X, official, other_official, packed, refusal, small, wan_timesteps

from sencache.errors import SencacheError
from sencache.hub.npz import MAX_BYTES, import_npz, parse_archive, parse_npz
from sencache.hub.official import KNOWN, Stated
from sencache.policies import SenCache
from sencache.policies.loading import load_profile
from sencache.profiles.profile import write_profile

# The scales that the authors' code multiplies its tolerances with, and what the files are said to hold.
SCALES = {
    "sensitivity_wan21.npz": 1447.97790038,
    "sensitivity_cogvid.npz": 1099.8181667894016,
    "sensitivity_ltx.npz": 1015.9685034488028,
}


# ---- what an official file becomes


def test_the_wan_file_needs_nothing_stated(tmp_path: Path) -> None:
    (tmp_path / WAN).write_bytes(packed(official()))
    profile = import_npz(tmp_path / WAN)
    assert profile.model.architecture == "wan" and "1.3B" in profile.model.id
    assert profile.schedule.config == {"flow_shift": 5.0} and profile.schedule.steps == 50
    assert profile.schedule.timesteps == tuple(wan_timesteps()) and profile.schedule.timesteps[-1] == 92
    shape = profile.shape
    assert shape and (shape.width, shape.height, shape.frames) == (832, 480, 81)
    assert profile.guidance_scale == 5.0 and profile.origin == WAN
    assert (profile.provenance.kind, profile.provenance.licence) == ("imported", "unknown")
    assert "Yassaman/SenCache" in profile.provenance.source
    table = profile.sensitivity
    assert table and table.target == "output"
    assert (min(table.alpha_x), max(table.alpha_x)) == pytest.approx(WAN_X, rel=1e-6)
    # Published 1.95 to 30.92 over 2,096,640 elements.
    assert min(table.alpha_t) == pytest.approx(0.0013434, rel=1e-4)
    assert max(table.alpha_t) == pytest.approx(0.0213524, rel=1e-4)


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_the_score_per_element_is_the_official_one_over_its_scale(known: Any) -> None:
    content = official() if known.file == WAN else other_official()
    profile = parse_npz(packed(content), known.file)
    scale = SCALES[known.file]
    assert math.sqrt(known.shape.elements) == pytest.approx(scale, rel=1e-9)
    timesteps = content["timesteps"]
    for row, moved, passed in ((0, 3.0, 1.0), (20, 250.0, 30.0), (49, 80.0, 7.5)):
        published = float(content["J_x_norm"][row]) * moved + float(content["J_t_norm"][row]) * passed
        alpha_x, alpha_t = profile.sensitivities().at(float(timesteps[row]))
        assert alpha_x * (moved / scale) + alpha_t * passed == pytest.approx(published / scale, rel=1e-9)


def test_it_serves_sencache_and_no_other_method(tmp_path: Path) -> None:
    """It is written and read like any profile."""
    profile = parse_npz(packed(official(sample_counts=np.full(50, 8, "f4"))), WAN)
    write_profile(profile, tmp_path / "p.json")
    assert load_profile(tmp_path / "p.json") == profile
    assert SenCache(profile).start
    for part in (profile.teacache_fit, lambda: profile.magnitude_ratios(50)):
        with pytest.raises(SencacheError, match="holds no"):
            part()


def test_a_renamed_file_is_known_by_its_numbers() -> None:
    assert parse_npz(packed(official()), "renamed.npz").provenance.source.endswith(WAN)
    louder = official(J_x_norm=official()["J_x_norm"] * 1.001)
    assert "is none of the official files" in refusal(packed(louder), "renamed.npz", None)
    assert "is none of" in refusal(packed(official(timesteps=wan_timesteps(8.0))), "renamed.npz", None)


def test_a_renamed_file_is_known_by_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small()
    ltx = replace(KNOWN["sensitivity_ltx.npz"], sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(KNOWN, ltx.file, ltx)
    assert parse_npz(data, "renamed.npz").model.architecture == "ltx"


def test_a_name_alone_does_not_make_it_official() -> None:
    assert "50 timesteps from 999 to 92" in refusal(small(), WAN)
    assert "from 999 to 140" in refusal(packed(official(timesteps=wan_timesteps(8.0))), WAN)
    assert "has 50 timesteps" in refusal(small(), "sensitivity_ltx.npz")
    assert f"holds the numbers of {WAN}" in refusal(packed(official()), "sensitivity_ltx.npz")


def test_what_is_known_may_be_confirmed() -> None:
    stated = Stated(model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", shift=5.0, latent=(16, 21, 104, 60))
    assert parse_npz(packed(official()), WAN, stated) == parse_npz(packed(official()), WAN)


@pytest.mark.parametrize(
    ("name", "stated", "said"),
    [
        (WAN, Stated(model="Wan-AI/Wan2.1-T2V-14B-Diffusers"), "Wan2.1-T2V-14B-Diffusers contradicts"),
        (WAN, Stated(shift=8.0), "shift 8.0 contradicts sensitivity_wan21.npz, which was measured at 5.0"),
        (WAN, Stated(latent=(16, 21, 60, 105)), "2116800 contradicts"),
        ("sensitivity_ltx.npz", Stated(shift=3.4708), "measured at 3.2"),
    ],
)
def test_a_contradiction_is_refused(name: str, stated: Stated, said: str) -> None:
    content = official() if name == WAN else other_official()
    assert said in refusal(packed(content), name, stated)


# ---- other files


@pytest.mark.parametrize(
    ("model", "shift", "latent", "config", "elements", "size"),
    [
        ("a/Wan-x", 3.0, (16, 5, 8, 12), {"flow_shift": 3.0}, 7680, (96, 64, 17)),
        ("a/CogVideoX-2b", None, (13, 16, 60, 90), {}, 1_123_200, (720, 480, 49)),
        ("a/LTX-Video", 3.2, (128, 21, 16, 24), {"mu": 3.2}, 1_032_192, (768, 512, 161)),
    ],
)
def test_any_other_file_is_what_it_is_stated_to_be(
    model: str, shift: float | None, latent: tuple[int, ...], config: Any, elements: int, size: Any
) -> None:
    profile = parse_npz(small(), "x.npz", Stated(model, shift, latent), "my own run")
    assert profile.model.id == model and profile.schedule.config == config
    shape = profile.shape
    assert shape and shape.elements == elements and (shape.width, shape.height, shape.frames) == size
    assert profile.sensitivity and profile.sensitivity.alpha_t == (1 / math.sqrt(elements),) * 4
    assert profile.provenance.source == "my own run" and profile.guidance_scale is None


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (Stated(), "--model is not given"),
        (replace(STATED, latent=None), "--latent is not given"),
        (replace(STATED, shift=None), "state it with --shift"),
        (replace(STATED, shift=-1.0), "not between 0 and 100"),
        (replace(STATED, model="a/cogvideox"), "leave --shift away"),
        (replace(STATED, model="a/flux"), "'a/flux' does not tell its architecture"),
        (replace(STATED, model="wan or ltx"), "does not tell its architecture"),
        (replace(STATED, latent=(16, 0, 8, 8)), "not four sizes"),
    ],
)
def test_what_is_missing_or_wrong_is_asked_for(stated: Stated, said: str) -> None:
    assert said in refusal(small(), "x.npz", stated)


@pytest.mark.parametrize("samples", [1, 5])
def test_raw_data_is_averaged_over_its_samples(samples: int) -> None:
    raw = np.random.default_rng(0).uniform(0.1, 64, (samples, 4, 2)).astype(np.float32)
    table = parse_npz(small(J_x_norm=None, J_t_norm=None, raw_data=raw), "x.npz", STATED).sensitivity
    assert table and table.samples == samples
    root = math.sqrt(16 * 5 * 8 * 8)
    for row in range(4):
        xs, ts = ([float(value) for value in raw[:, row, part]] for part in (0, 1))
        mean_x = math.fsum(xs) / samples
        assert table.alpha_x[row] == pytest.approx(mean_x, rel=1e-12)
        assert table.alpha_t[row] == pytest.approx(math.fsum(ts) / samples / root, rel=1e-12)
        deviation = math.sqrt(math.fsum((x - mean_x) ** 2 for x in xs) / samples)
        assert table.alpha_x_std[row] == pytest.approx(deviation, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "samples"), [({"sample_counts": np.array([7, 5, 6, 9], "f4")}, 5), ({}, 1)]
)
def test_samples_are_those_behind_every_row(changes: dict[str, Any], samples: int) -> None:
    table = parse_npz(small(**changes), "x.npz", STATED).sensitivity
    assert table and table.samples == samples


@pytest.mark.parametrize(
    ("dtype", "save"), [("<f4", np.savez), (">f8", np.savez_compressed), ("|u1", np.savez), ("<i8", np.savez)]
)
def test_numbers_are_read_as_numpy_reads_them(save: Callable[..., None], dtype: str) -> None:
    values = np.asfortranarray(np.arange(24, dtype=dtype).reshape(3, 4, 2))
    data = packed({"raw_data": values, "timesteps": values[:, 0, 0].copy()}, save)
    read = parse_archive(data, ("raw_data", "timesteps"), "x.npz")
    theirs = np.load(io.BytesIO(data))
    assert set(read) == set(theirs)
    for name, array in read.items():
        assert array.dtype == theirs[name].dtype and np.array_equal(array, theirs[name])


# ---- what is refused; hostile archives: see tests/attacks


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timesteps": None}, "holds no timesteps"),
        ({"J_t_norm": None}, "neither J_x_norm and J_t_norm nor raw_data"),
        ({"timesteps": np.array([1.0, 2, 3, 4])}, "in sampling order"),
        ({"timesteps": np.array([1001.0, 8, 7, 6])}, "at most 1000"),
        ({"timesteps": np.array([9.0, 8, 7, -1])}, "timesteps holds -1"),
        ({"timesteps": np.array([9.0])}, "2 to 1000 values"),
        ({"timesteps": np.zeros(0)}, "has shape (0,)"),
        ({"timesteps": np.ones((4, 1))}, "has shape (4, 1)"),
        ({"J_x_norm": np.ones(5)}, "each of the 4 timesteps"),
        ({"J_x_norm": np.array([1, np.nan, 1, 1])}, "J_x_norm holds nan"),
        ({"J_t_norm": np.array([1, 1e300, 1, 1])}, "J_t_norm holds 1e+300"),
        ({"J_x_norm": np.zeros(4)}, "zero throughout"),
        ({"sample_counts": np.array([1.0, 0, 1, 1])}, "sample_counts holds 0"),
        ({"sample_counts": np.ones(3)}, "sample_counts has shape (3,)"),
        ({"J_x_norm": None, "raw_data": np.ones((2, 3, 2))}, "[samples, 4, 2]"),
        ({"J_x_norm": None, "raw_data": np.full((2, 4, 2), np.nan)}, "raw_data holds nan"),
        ({"J_x_norm": np.array([1, 2, 3, 4], object)}, "'|O'"),
        ({"J_x_norm": np.ones(4, [("a", "f4")])}, "[('a', '<f4')]"),
        ({"J_x_norm": np.float64(1)}, "'shape': ()"),
        ({"extra": np.ones(4)}, "'extra.npy'"),
        ({"../timesteps": np.ones(4)}, "'../timesteps.npy'"),
    ],
)
def test_an_unsound_array_is_refused(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(small(**changes))


def test_only_a_small_ordinary_file_is_opened(tmp_path: Path) -> None:
    big, pipe = tmp_path / "big.npz", tmp_path / "pipe.npz"
    with big.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    os.mkfifo(pipe)
    for path, said in (
        (big, "more than the 4,000,000 bytes"),
        (pipe, "is not a file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "none.npz", "No such file"),
        (tmp_path / "a\0b", "cannot read"),
    ):
        with pytest.raises(SencacheError, match=said):
            import_npz(path)


def test_a_size_that_is_too_small_expands_no_further() -> None:
    """200 MB of zeros in 200 kB, which the directory calls 100 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("timesteps.npy", bytes(200_000_000))
    bomb = bytearray(file.getvalue())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = bomb.index(mark) + offset
        bomb[at : at + 4] = (100).to_bytes(4, "little")
    tracemalloc.start()
    try:
        assert "not a sound npz archive" in refusal(bytes(bomb))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
