"""Reading NumPy archives that nobody vouches for.

Nothing is unpickled: sizes and names are checked first, NumPy reads the headers, and only plain numbers are
turned into arrays. Memory stays within a few times `MAX_BYTES`.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.lib import format as npy

from sencache.errors import SencacheError

MAX_BYTES = 4_000_000
MAX_MEMBERS = 16
MAX_HEADER = 1024

Array = np.ndarray[Any, np.dtype[Any]]

_DIRECTORY_ENTRY = b"PK\x01\x02"
_ENCRYPTED = 0x1
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def parse_archive(data: bytes, names: Collection[str], source: str) -> dict[str, Array]:
    """The arrays of an npz archive, by name; at most `MAX_BYTES` when decompressed.

    Raises SencacheError, naming `source`, when `data` is no such archive, or holds anything but plain arrays
    of integers or floats called one of `names`. Codes: `npz.damaged`, `npz.not-an-array`, `npz.object-dtype`
    (anything but numbers), `npz.unknown-array`, `npz.duplicate-array`, `npz.too-many-arrays`,
    `npz.unusual-packing`, `npz.too-large`.
    """
    if data.count(_DIRECTORY_ENTRY) > MAX_MEMBERS:
        raise SencacheError(
            f"{source} holds more than {MAX_MEMBERS} arrays; use the file as published", "npz.too-many-arrays"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _checked(archive.infolist(), names, source)
            texts = {name: _expanded(archive, member) for name, member in members.items()}
    except SencacheError:
        raise
    # A damaged archive makes zipfile raise almost anything, from BadZipFile to struct.error.
    except Exception as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise SencacheError(
            f"{source} is not a sound npz archive ({problem[:100]}); download it again", "npz.damaged"
        ) from None
    return {name: _array(text, name, source) for name, text in texts.items()}


def _expanded(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        # Without a size the whole stream would be expanded at once, whatever the directory says.
        text = file.read(member.file_size)
    if len(text) != member.file_size:
        raise EOFError(f"{member.filename} is cut short")
    return text


def _checked(
    members: list[zipfile.ZipInfo], names: Collection[str], source: str
) -> dict[str, zipfile.ZipInfo]:
    """The members by array name, none of them decompressed yet."""
    checked: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name not in names or member.filename != f"{name}.npy":
            raise SencacheError(
                f"{source} holds {member.filename[:60]!r}; a sensitivity file holds only {', '.join(names)}",
                "npz.unknown-array",
            )
        if name in checked:
            raise SencacheError(
                f"{source} holds {name} twice; use the file as published", "npz.duplicate-array"
            )
        if member.flag_bits & _ENCRYPTED or member.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise SencacheError(
                f"{source}: {name} is encrypted or packed in an unusual way; save it anew",
                "npz.unusual-packing",
            )
        checked[name] = member
    expanded = sum(member.file_size for member in members)
    if expanded > MAX_BYTES:
        raise SencacheError(
            f"{source} expands to {expanded:,} bytes, more than the {MAX_BYTES:,} a sensitivity file may "
            "have; use the file as published",
            "npz.too-large",
        )
    return checked


def _array(data: bytes, name: str, source: str) -> Array:
    """The array in the text of one .npy file: magic, version, header length, header, numbers."""
    file = io.BytesIO(data)
    try:
        read = _READERS[npy.read_magic(file)]
    except (ValueError, KeyError):
        raise SencacheError(
            f"{source}: {name} is not a NumPy array; use the file as published", "npz.not-an-array"
        ) from None
    start = 10 if read is npy.read_array_header_1_0 else 12
    length = int.from_bytes(data[8:start], "little")
    if length > min(MAX_HEADER, len(data) - start):
        raise SencacheError(
            f"{source}: {name} has a header of {length:,} bytes; use the file as published",
            "npz.not-an-array",
        )
    header = data[start : start + length].decode("latin-1").rstrip(" \n")
    header = data[start : start + length].decode("latin-1").strip(" \n")
    try:
        shape, fortran, dtype = read(file)
        _check_plain(header, shape, fortran, dtype)
    # Odd text makes the parser raise almost anything, from SyntaxError to MemoryError.
    except Exception:
        raise SencacheError(
            f"{source}: {name} is described as {header[:80]!r}; "
            "only plain arrays of integers or floats are read",
            "npz.object-dtype",
        ) from None
    body = memoryview(data)[start + length :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise SencacheError(
            f"{source}: {name} claims {math.prod(shape):,} numbers of {dtype.itemsize} bytes, "
            f"but {len(body):,} bytes follow; download it again",
            "npz.damaged",
        )
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def _check_plain(header: str, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]) -> None:
    """Raise ValueError for anything but numbers, in the very words that NumPy writes."""
    written = f"{{'descr': {dtype.str!r}, 'fortran_order': {fortran}, 'shape': {tuple(map(int, shape))}, }}"
    sizes = 1 <= len(shape) <= 8 and all(0 <= size < 10**9 for size in shape)
    if header != written or dtype.kind not in "fiu" or dtype.itemsize > 8 or not sizes:
        raise ValueError("not plain")
