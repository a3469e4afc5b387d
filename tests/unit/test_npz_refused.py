"""Unsound arrays and hostile archives are refused, in bounded memory."""

from __future__ import annotations

import io
import os
import tracemalloc
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from npz_files import STATED, refusal, small
from numpy.lib import format as npy

from sencache.errors import SencacheError
from sencache.hub.archive import MAX_BYTES
from sencache.hub.npz import import_npz, parse_npz


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timesteps": None}, "holds no timesteps"),
        ({"J_t_norm": None}, "neither J_x_norm and J_t_norm nor raw_data"),
        ({"timesteps": np.array([1.0, 2, 3, 4])}, "in sampling order"),
        ({"timesteps": np.array([9.0, 8, 8, 7])}, "in sampling order"),
        ({"timesteps": np.array([1001.0, 8, 7, 6])}, "at most 1000"),
        ({"timesteps": np.array([9.0, 8, 7, -1])}, "timesteps holds -1"),
        ({"timesteps": np.array([9.0])}, "2 to 1000 values"),
        ({"timesteps": np.zeros(0)}, "has shape (0,)"),
        ({"timesteps": np.ones((4, 1))}, "has shape (4, 1)"),
        ({"J_x_norm": np.ones(5)}, "each of the 4 timesteps"),
        ({"J_x_norm": np.array([1, np.nan, 1, 1])}, "J_x_norm holds nan"),
        ({"J_x_norm": np.array([1, np.inf, 1, 1])}, "J_x_norm holds inf"),
        ({"J_t_norm": np.array([1, -2.0, 1, 1])}, "J_t_norm holds -2"),
        ({"J_t_norm": np.array([1, 1e300, 1, 1])}, "J_t_norm holds 1e+300"),
        ({"J_x_norm": np.zeros(4)}, "zero throughout"),
        ({"J_t_norm": np.zeros(4)}, "zero throughout"),
        ({"sample_counts": np.array([1.0, 0, 1, 1])}, "sample_counts holds 0"),
        ({"sample_counts": np.ones(3)}, "sample_counts has shape (3,)"),
        ({"J_x_norm": None, "raw_data": np.ones((2, 3, 2))}, "[samples, 4, 2]"),
        ({"J_x_norm": None, "raw_data": np.ones((0, 4, 2))}, "[samples, 4, 2]"),
        ({"J_x_norm": None, "raw_data": np.full((2, 4, 2), np.nan)}, "raw_data holds nan"),
        ({"J_x_norm": np.array([1, 2, 3, 4], object)}, "'|O'"),
        ({"J_x_norm": np.array(["1", "2", "3", "4"])}, "'<U1'"),
        ({"J_x_norm": np.ones(4, complex)}, "'<c16'"),
        ({"J_x_norm": np.ones(4, bool)}, "'|b1'"),
        ({"J_x_norm": np.ones(4, np.longdouble)}, "f16'"),
        ({"J_x_norm": np.ones(4, [("a", "f4")])}, "[('a', '<f4')]"),
        ({"J_x_norm": np.float64(1)}, "'shape': ()"),
        ({"extra": np.ones(4)}, "'extra.npy'"),
        ({"../timesteps": np.ones(4)}, "'../timesteps.npy'"),
    ],
)
def test_an_unsound_array_is_refused(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(small(**changes))


def entry(shape: str, body: bytes = b"", descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return npy.magic(1, 0) + len(header).to_bytes(2, "little") + header + body


def zipped(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a sound npz archive"),
        (b"PK\x05\x06" + bytes(18), "holds no timesteps"),
        (b"not a zip", "not a sound npz archive"),
        (small()[:-30], "not a sound npz archive"),
        (zipped(("timesteps.npy", b"")), "not a NumPy array"),
        (zipped(("timesteps.npy", b"\x93NUMPY\x09\x00" + bytes(20))), "not a NumPy array"),
        (zipped(("timesteps.npy", entry("(1000000000000,)"))), "only plain arrays"),
        (zipped(("timesteps.npy", entry("(999999999,)"))), "claims 999,999,999 numbers"),
        (zipped(("timesteps.npy", entry("(4,)", bytes(17)))), "but 17 bytes follow"),
        (zipped(("timesteps.npy", entry("(4,)", descr="__import__('os')"))), "only plain arrays"),
        (zipped(("timesteps.npy", entry("(" * 300 + ")" * 300))), "only plain arrays"),
        (zipped(("timesteps.npy", entry("(4,)" + " " * 2000))), "a header of"),
        (zipped(("timesteps.npy", bytes(50_000_000))), "expands to 50,000,000 bytes"),
        (zipped(*((f"a{k}.npy", b"") for k in range(17))), "more than 16 arrays"),
        (zipped(("timesteps.npy", b""), ("timesteps.npy", b"")), "timesteps twice"),
        (zipped(("timesteps.npy", b"1"), compression=zipfile.ZIP_BZIP2), "unusual way"),
        (zipped(("timesteps", b"")), "'timesteps'"),
        (zipped(("timesteps.npy.npy", b"")), "'timesteps.npy.npy'"),
    ],
)
def test_a_hostile_archive_is_refused(data: bytes, said: str) -> None:
    assert said in refusal(data)


def test_a_size_that_is_too_small_expands_no_further() -> None:
    """200 MB of zeros in 200 kB, which the directory calls 100 bytes."""
    bomb = bytearray(zipped(("timesteps.npy", bytes(200_000_000))))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = bomb.index(mark) + offset
        bomb[at : at + 4] = (100).to_bytes(4, "little")
    tracemalloc.start()
    try:
        assert "not a sound npz archive" in refusal(bytes(bomb))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


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


@given(st.data())
def test_a_changed_byte_is_noticed_or_harmless(data: st.DataObject) -> None:
    whole = small()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    with suppress(SencacheError):
        assert (
            parse_npz(changed, "x.npz", STATED).sensitivity == parse_npz(whole, "x.npz", STATED).sensitivity
        )
