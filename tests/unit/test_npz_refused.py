"""Unsound arrays are refused with the value that is wrong; hostile archives: see tests/attacks."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npz_files import refusal, small

from sencache.errors import SencacheError
from sencache.hub.npz import MAX_BYTES, import_npz


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
