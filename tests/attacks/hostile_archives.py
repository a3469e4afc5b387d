"""Sensitivity files that must be refused, by name: their bytes, and the code of the refusal."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Cases = Iterator[tuple[str, bytes, str]]
STEPS = 50
TIMESTEPS = np.linspace(999, 92, STEPS).astype(np.int64)
J_X = np.linspace(1.03, 31.9, STEPS).astype(np.float32)
J_T = np.linspace(1.95, 30.9, STEPS).astype(np.float32)


def npy(array: Any) -> bytes:
    """One array as NumPy writes it, pickled where it holds objects."""
    text = io.BytesIO()
    np.save(text, array, allow_pickle=True)
    return text.getvalue()


def described(header: str, body: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """A .npy file with a header of one's own; `length` is what it claims of the header."""
    size = len(header) if length is None else length
    packed = struct.pack("<H" if version == 1 else "<I", size & (0xFFFF if version == 1 else 0xFFFFFFFF))
    return b"\x93NUMPY" + bytes([version, 0]) + packed + header.encode("latin-1") + body


def shaped(shape: str, descr: str = "'<f4'", body: bytes = b"\x00" * 200) -> bytes:
    return described(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n", body)


def sound() -> dict[str, bytes]:
    """What a sound file holds."""
    return {
        "timesteps.npy": npy(TIMESTEPS),
        "J_x_norm.npy": npy(J_X),
        "J_t_norm.npy": npy(J_T),
        "sample_counts.npy": npy(np.full(STEPS, 8.0, np.float32)),
    }


def packed(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return text.getvalue()


def holding(name: str, content: Any) -> bytes:
    """The sound file with another array, or another .npy file's bytes, as `name`."""
    return packed(sound() | {f"{name}.npy": content if isinstance(content, bytes) else npy(content)})


SOUND = packed(sound())


class Payload:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("OWNED-by-pickle"),)


def objects() -> np.ndarray[Any, Any]:
    array = np.empty(STEPS, object)
    array[:] = [Payload() for _ in range(STEPS)]
    return array


# ---- code


def code_inside() -> Cases:
    touch = "__import__('pathlib').Path('OWNED-by-header').touch()"
    for name in ("timesteps", "J_x_norm", "J_t_norm", "sample_counts", "raw_data"):
        yield (f"pickled objects as {name}", holding(name, objects()), "npz.object-dtype")
        for header in (touch, f"{{'descr': {touch}, 'fortran_order': False, 'shape': (50,), }}\n"):
            yield (
                f"code of {len(header)} characters in the header of {name}",
                holding(name, described(header)),
                "npz.object-dtype",
            )
    for protocol in (0, pickle.HIGHEST_PROTOCOL):
        raw = pickle.dumps(Payload(), protocol)
        yield (f"a pickle of protocol {protocol}", raw, "npz.damaged")
        yield (f"a pickle of protocol {protocol} as an array", holding("J_x_norm", raw), "npz.not-an-array")
        checkpoint = packed({"archive/data.pkl": raw, "archive/version": b"3"})
        yield (f"a checkpoint with a pickle of protocol {protocol}", checkpoint, "npz.unknown-array")
    yield ("a pickled scalar", holding("timesteps", np.array(Payload(), object)), "npz.object-dtype")


# ---- headers


def dtypes() -> Cases:
    for descr in (
        *("'|O'", "'|S8'", "'<U8'", "'<c8'", "'|b1'", "'|V8'", "'<M8[s]'", "'<m8[ns]'", "'<f16'", "'<g16'"),
        *("[('a', '<f4')]", "[('a', '|O')]", "('<f4', (2,))", "'<f4', 'x': 1", "'f'", "'float32'", "''"),
        *("'<f3'", "'<i16'", "'@f4'", "'\\x3cf4'", '"<f4"', "None", "4", "'<f4\n'"),
    ):
        for name in ("timesteps", "J_t_norm"):
            yield (f"{descr!r} as {name}", holding(name, shaped("(50,)", descr)), "npz.object-dtype")


def shapes() -> Cases:
    for shape in ("(1000000000000,)", "(-50,)", "(50.0,)", "()", "[50]", "50", "(50)", "(0x32,)", "(True,)"):
        yield (f"the shape {shape}", holding("J_x_norm", shaped(shape)), "npz.object-dtype")
    for shape in ("(" + "9" * 400 + ",)", "(" + "1, " * 33 + "50)", "(50,) * 10**9", "(None,)", "(5,, 10)"):
        yield (f"the shape {shape[:20]}...", holding("J_x_norm", shaped(shape)), "npz.object-dtype")
    for shape in ("(999999999,)", "(51,)", "(999999999, 999999999)", "(1, 50, 3)", "(0,)", "(0, 999999999)"):
        yield (f"the shape {shape} over 50 numbers", holding("J_x_norm", shaped(shape)), "npz.damaged")
    for shape in ("(50, 1)", "(1, 50)", "(5, 10)", "(1, 1, 1, 1, 1, 1, 1, 50)"):
        yield (f"the shape {shape}", holding("J_x_norm", shaped(shape)), "npz.wrong-shape")
    for shape in ("(0,)", "(0, 0)", "(0, 999999999)"):
        empty = holding("timesteps", shaped(shape, body=b""))
        yield (f"no numbers in the shape {shape}", empty, "npz.wrong-shape")


def headers() -> Cases:
    normal = "{'descr': '<f4', 'fortran_order': False, 'shape': (50,), }\n"
    for name, content in {
        "nothing": b"",
        "a magic number alone": b"\x93NUMPY",
        "another magic number": b"\x93NUMPX" + npy(J_X)[6:],
        "version 0": described(normal, version=0),
        "version 9": described(normal, version=9),
        "version 255": described(normal, version=255),
        "a header of 64 kB": described(normal.ljust(65_000), version=1),
        "a header of 4 GB": described(normal, version=2, length=2**32 - 1),
        "a header beyond the file": described(normal, length=1000),
        "text": b"0.5\n" * 50,
        "a png": b"\x89PNG\r\n\x1a\n" + b"\x00" * 200,
    }.items():
        yield (f"{name} for an array", holding("J_x_norm", content), "npz.not-an-array")
    for name, header in {
        "no header": "",
        "no shape": "{'descr': '<f4', 'fortran_order': False, }\n",
        "another key": "{'descr': '<f4', 'fortran_order': False, 'shape': (50,), 'x': 1, }\n",
        "keys twice": "{'descr': '<f4', 'descr': '|O', 'fortran_order': False, 'shape': (50,), }\n",
        "an order that is no truth value": "{'descr': '<f4', 'fortran_order': 0, 'shape': (50,), }\n",
        "brackets 1,000 deep": "(" * 1000,
        "a list comprehension": "[x for x in range(10**9)]",
        "json": '{"descr": "<f4", "fortran_order": false, "shape": [50]}\n',
        "NUL bytes": "\x00" * 118,
        "an escape of a terminal": "\x1b[2J\x1b[31m{'descr'",
    }.items():
        yield (
            f"{name} in a header",
            holding("J_x_norm", described(header, J_X.tobytes())),
            "npz.object-dtype",
        )
    for cut in (1, 199):
        yield (f"{cut} bytes missing", holding("J_x_norm", npy(J_X)[:-cut]), "npz.damaged")
        yield (f"{cut} bytes too many", holding("J_x_norm", npy(J_X) + b"x" * cut), "npz.damaged")


# ---- numbers


def numbers() -> Cases:
    for name, good in (("J_x_norm", J_X), ("J_t_norm", J_T), ("timesteps", TIMESTEPS.astype(np.float64))):
        for place, wrong in ((0, np.nan), (24, np.inf), (-1, -np.inf), (0, -1.0), (24, 1e10), (-1, 3e38)):
            values = good.copy()
            values[place] = wrong
            yield (f"{wrong} at {place} of {name}", holding(name, values), "npz.out-of-range")
        lengths = (1, 49, 51, 200) if name != "timesteps" else (49, 51)
        for length in lengths:
            values = np.linspace(900, 1, length)
            yield (f"{length} values in {name}", holding(name, values), "npz.wrong-shape")
        yield (f"two axes in {name}", holding(name, good.reshape(5, 10)), "npz.wrong-shape")
        yield (
            f"the largest integers in {name}",
            holding(name, np.full(STEPS, 2**64 - 1, np.uint64)),
            "npz.out-of-range",
        )
    for name in ("J_x_norm", "J_t_norm"):
        yield (f"zeros in {name}", holding(name, np.zeros(STEPS)), "npz.all-zero")
    for fewest in (0.0, 0.5):
        yield (f"{fewest} samples", holding("sample_counts", np.full(STEPS, fewest)), "npz.out-of-range")
    yield ("NaN samples", holding("sample_counts", np.full(STEPS, np.nan)), "npz.out-of-range")
    yield ("too few sample counts", holding("sample_counts", np.ones(3)), "npz.wrong-shape")


def schedules() -> Cases:
    swapped = TIMESTEPS.copy()
    swapped[[10, 11]] = swapped[[11, 10]]
    for name, values in {
        "rising": TIMESTEPS[::-1].copy(),
        "rising once": swapped,
        "all the same": np.full(STEPS, 500),
        "two the same": np.where(np.arange(STEPS) == 30, TIMESTEPS[29], TIMESTEPS),
        "above 1000": TIMESTEPS + 2,
    }.items():
        yield (f"timesteps {name}", holding("timesteps", values), "npz.timesteps")
    for steps in (1, 1001, 100_000):
        table = {name: npy(np.linspace(999, 1, steps)) for name in sound()}
        yield (f"{steps} timesteps", packed(table), "npz.timesteps")
    for gone in ("timesteps", "J_x_norm", "J_t_norm"):
        members = sound()
        del members[f"{gone}.npy"]
        yield (f"no {gone}", packed(members), "npz.missing-array")
    for shape in ((8, 50), (8, 50, 3), (8, 49, 2), (0, 50, 2), (8, 2, 50), (50,)):
        raw = packed({"timesteps.npy": npy(TIMESTEPS), "raw_data.npy": npy(np.ones(shape, np.float32))})
        yield (f"raw data of shape {shape}", raw, "npz.wrong-shape")
    spoiled = np.ones((8, 50, 2), np.float32)
    spoiled[7, 49, 1] = np.nan
    raw = packed({"timesteps.npy": npy(TIMESTEPS), "raw_data.npy": npy(spoiled)})
    yield ("NaN in raw data", raw, "npz.out-of-range")


# ---- archives

NAMES = (
    *("../timesteps.npy", "../../../../tmp/OWNED.npy", "/etc/passwd", "/timesteps.npy", "a/timesteps.npy"),
    *("C:\\timesteps.npy", "..\\timesteps.npy", "timesteps", "timesteps.npy.npy", "TIMESTEPS.NPY"),
    *("timesteps.pkl", "\x1b[31mtimesteps.npy", "timesteps\n.npy", " timesteps.npy", "timesteps.npy "),
    *(".npy", "x" * 60_000 + ".npy", "timesteps.npy/", "arr_0.npy", "tіmesteps.npy", "OWNED"),
)


def archives() -> Cases:
    for name in NAMES:
        extra = packed({**sound(), name: npy(J_X)})
        yield (f"a member called {name[:40]!r}", extra, "npz.unknown-array")
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    yield ("a symbolic link", text.getvalue(), "npz.unknown-array")
    for name in sound():
        yield (f"{name} twice", twice(name), "npz.duplicate-array")
    for count in (17, 1000, 20_000):
        yield (
            f"{count:,} members",
            packed({f"m{k}": b"" for k in range(count)}, zipfile.ZIP_STORED),
            "npz.too-many-arrays",
        )
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield (f"packed by method {compression}", packed(sound(), compression), "npz.unusual-packing")
    yield ("encrypted", flagged(0x1), "npz.unusual-packing")


def twice(name: str) -> bytes:
    other = name.replace("s", "S").replace("J", "j")
    raw = packed({**sound(), other: npy(np.zeros(STEPS))})
    return raw.replace(other.encode(), name.encode())


def flagged(bit: int) -> bytes:
    """The flag set in every entry of the directory and every local header."""
    raw = bytearray(SOUND)
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = raw.find(signature)
        while at >= 0:
            raw[at + offset] |= bit
            at = raw.find(signature, at + 1)
    return bytes(raw)


def patched(field: int, value: int, size: int = 4) -> bytes:
    """The first entry of the directory with `value` at offset `field`."""
    raw = bytearray(SOUND)
    at = raw.find(b"PK\x01\x02") + field
    raw[at : at + size] = value.to_bytes(size, "little")
    return bytes(raw)


def bomb(size: int) -> bytes:
    """`size` zeros in a member that is called like an array."""
    text = io.BytesIO()
    with (
        zipfile.ZipFile(text, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("J_x_norm.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(size // 1_000_000):
            member.write(bytes(1_000_000))
    return text.getvalue()


def bombs() -> Cases:
    large = bomb(100_000_000)
    yield ("a bomb of 100 MB", large, "npz.too-large")
    for claimed in (0, 200, 3_999_999):
        raw = bytearray(large)
        at = raw.find(b"PK\x01\x02") + 24
        raw[at : at + 4] = claimed.to_bytes(4, "little")
        yield (
            f"a bomb that claims {claimed} bytes",
            bytes(raw),
            "npz.damaged" if claimed else "npz.not-an-array",
        )
    yield ("four members of 1.5 MB", packed({name: bytes(1_500_000) for name in sound()}), "npz.too-large")
    yield ("a member within a member", packed({"J_x_norm.npy": large[:3_000_000]}), "npz.not-an-array")
    yield ("five megabytes", packed({"J_x_norm.npy": bytes(5_000_000)}, zipfile.ZIP_STORED), "file.too-large")


def damage() -> Cases:
    for name, raw in {
        "nothing": b"",
        "an empty archive": packed({}),
        "one array": npy(J_X),
        "text": b"timesteps: 999\n" * 100,
        "json": b'{"timesteps": [999]}',
        "html": b"<html>404</html>",
        "zeros": bytes(100_000),
        "a gzip": b"\x1f\x8b\x08\x00" + bytes(100),
        "noise": np.random.default_rng(0).bytes(50_000),
        "an end of directory alone": SOUND[-22:],
        "an end of directory many times": SOUND[-22:] * 1000,
    }.items():
        yield (name, raw, "npz.missing-array" if name == "an empty archive" else "npz.damaged")
    for k in range(1, 12, 3):
        yield (f"cut after {k}/12", SOUND[: len(SOUND) * k // 12], "npz.damaged")
    for name, field, value, size in (
        ("another checksum", 16, 0xDEADBEEF, 4),
        ("an offset beyond the file", 42, 2**31, 4),
        ("an offset into another member", 42, 300, 4),
        ("a size of one byte more", 24, len(npy(TIMESTEPS)) + 1, 4),
        ("a size of nothing", 24, 0, 4),
    ):
        yield (name, patched(field, value, size), "npz.damaged" if value else "npz.not-an-array")
    yield ("a method that does not exist", patched(10, 99, 2), "npz.unusual-packing")
    yield ("a size of 4 GB", patched(24, 2**32 - 2), "npz.too-large")
    torn = bytearray(SOUND)
    torn[60:120] = bytes(60)
    yield ("a torn member", bytes(torn), "npz.damaged")


GROUPS = (code_inside, dtypes, shapes, headers, numbers, schedules, archives, bombs, damage)
CASES = {f"{group.__name__}: {name}": (*case,) for group in GROUPS for name, *case in group()}
