"""The sensitivity files of the SenCache authors -> profiles.

Such a file holds, per timestep of its schedule, `J_x_norm`, the L2 change of the network's output per L2
change of the latent, and `J_t_norm`, the L2 norm of its difference quotient in t (0..1000), each a mean over
samples. The x part has no unit and is taken as it is. The t part grows with the root of the number of
elements, and is divided by it, so that both are RMS per element as everywhere here. The Wan calibration
script stores `raw_data` [samples, steps, 2] instead, which is averaged.

Nobody vouches for such files, so nothing is unpickled: sizes and names are checked first, NumPy reads the
headers, and only plain numbers are turned into arrays. Memory stays within a few times `MAX_BYTES`.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sencache.errors import SencacheError
from sencache.hub.official import Stated, facts_of
from sencache.policies.soundness import check_presets
from sencache.profiles.constants import ModelId, Provenance, SamplerSchedule, SensitivityTable
from sencache.profiles.profile import Profile
from sencache.reading import read_limited
from sencache.schema import MAX_STEPS

NAMES = ("timesteps", "J_x_norm", "J_t_norm", "sample_counts", "raw_data")
MAX_BYTES = 4_000_000
MAX_MEMBERS = 16
MAX_HEADER = 1024
# No network has a sensitivity anywhere near it.
MAX_SENSITIVITY = 1e9

Array = NDArray[Any]

_DIRECTORY_ENTRY = b"PK\x01\x02"
_ENCRYPTED = 0x1


def import_npz(
    path: str | os.PathLike[str],
    source: str | None = None,
    *,
    model: str | None = None,
    shift: float | None = None,
    latent: Sequence[int] | None = None,
) -> Profile:
    """A profile from one sensitivity file.

    An official file, told by its name or its content, needs nothing else. For any other state `model`, the
    id of a Wan, CogVideoX or LTX checkpoint, `shift`, that of its flow schedule, and `latent`, one sample's
    as channels, frames, height, width (CogVideoX: frames first). `source` is noted as where the file comes
    from.

    Raises SencacheError when the file is not sound, when something needed is not stated, or when it is stated
    otherwise than known. Codes: those of `reading.read_limited` and `parse_archive`,
    `npz.missing-array`, `npz.wrong-shape`, `npz.out-of-range`, `npz.timesteps`, `npz.all-zero`, and those of
    `soundness.check_presets`.
    """
    path = Path(path)
    stated = Stated(model, shift, tuple(latent) if latent is not None else None)
    return parse_npz(read_limited(path, "sensitivity file", MAX_BYTES), path.name, stated, source)


def parse_npz(data: bytes, name: str, stated: Stated | None = None, source: str | None = None) -> Profile:
    """`import_npz` of the content of a file called `name`."""
    arrays = parse_archive(data, NAMES, name)
    timesteps = _timesteps(arrays, name)
    means, spread, samples = _sensitivities(arrays, len(timesteps), name)
    facts = facts_of(name, hashlib.sha256(data).hexdigest(), timesteps, means, stated or Stated())
    root = math.sqrt(facts.shape.elements)
    profile = Profile(
        schema_="sencache.profile/1",
        model=ModelId(id=facts.model, revision=None, architecture=facts.architecture),
        schedule=SamplerSchedule(
            scheduler=facts.scheduler,
            config=facts.config,
            steps=len(timesteps),
            timesteps=tuple(timesteps.tolist()),
        ),
        shape=facts.shape,
        guidance_scale=facts.guidance_scale,
        dtype=facts.dtype,
        sensitivity=SensitivityTable(
            alpha_x=tuple(means[:, 0].tolist()),
            alpha_t=tuple((means[:, 1] / root).tolist()),
            alpha_x_std=None if spread is None else tuple(spread[:, 0].tolist()),
            alpha_t_std=None if spread is None else tuple((spread[:, 1] / root).tolist()),
            samples=samples or facts.samples,
            target="output",
        ),
        magcache=None,
        teacache=None,
        calibration=None,
        provenance=Provenance(kind="imported", source=source or facts.source, licence="unknown"),
    )
    check_presets(profile)
    return profile.with_origin(name)


def _timesteps(arrays: dict[str, Array], source: str) -> Array:
    if "timesteps" not in arrays:
        raise SencacheError(
            f"{source} holds no timesteps; use the file as the calibration script wrote it",
            "npz.missing-array",
        )
    timesteps = _column(arrays, "timesteps", source)
    steps = len(timesteps)
    if not 2 <= steps <= MAX_STEPS or timesteps[0] > 1000 or not (np.diff(timesteps) < 0).all():
        raise SencacheError(
            f"{source}: timesteps must be 2 to {MAX_STEPS} values that fall from at most 1000, and they are "
            f"{steps} from {timesteps[0]:g} to {timesteps[-1]:g}; list them in sampling order",
            "npz.timesteps",
        )
    return timesteps


def _sensitivities(
    arrays: dict[str, Array], steps: int, source: str
) -> tuple[Array, Array | None, int | None]:
    """Mean and, if told, spread of J_x and J_t over the samples, [steps, 2] each; the fewest samples."""
    if {"J_x_norm", "J_t_norm"} <= arrays.keys():
        columns = [_column(arrays, name, source, steps) for name in ("J_x_norm", "J_t_norm")]
        means, spread, samples = np.stack(columns, axis=1), None, _fewest_samples(arrays, steps, source)
    elif "raw_data" in arrays:
        raw = arrays["raw_data"]
        if raw.ndim != 3 or not raw.shape[0] or raw.shape[1:] != (steps, 2):
            raise SencacheError(
                f"{source}: raw_data has shape {raw.shape}, and should be [samples, {steps}, 2]; "
                "choose another file",
                "npz.wrong-shape",
            )
        raw = _checked_numbers(raw, "raw_data", source)
        means, spread, samples = raw.mean(axis=0), raw.std(axis=0), len(raw)
    else:
        raise SencacheError(
            f"{source} holds neither J_x_norm and J_t_norm nor raw_data; choose another file",
            "npz.missing-array",
        )
    if not means.max(axis=0).all():
        raise SencacheError(
            f"{source}: J_x_norm or J_t_norm is zero throughout, so nothing was measured; calibrate anew",
            "npz.all-zero",
        )
    return means, spread, samples


def _fewest_samples(arrays: dict[str, Array], steps: int, source: str) -> int | None:
    if "sample_counts" not in arrays:
        return None
    fewest = float(_column(arrays, "sample_counts", source, steps).min())
    if fewest < 1:
        raise SencacheError(
            f"{source}: sample_counts holds {fewest:g}; every timestep needs a sample, calibrate anew",
            "npz.out-of-range",
        )
    return int(fewest)


def _column(arrays: dict[str, Array], name: str, source: str, length: int | None = None) -> Array:
    values = arrays[name]
    if values.ndim != 1 or length not in (None, len(values)) or not len(values):
        expected = f"one value for each of the {length} timesteps" if length else "a list of numbers"
        raise SencacheError(
            f"{source}: {name} has shape {values.shape}, and should be {expected}; choose another file",
            "npz.wrong-shape",
        )
    return _checked_numbers(values, name, source)


def _checked_numbers(values: Array, name: str, source: str) -> Array:
    """As float64; finite, not negative, and of a size that is possible."""
    values = values.astype(np.float64)
    wrong = values[~((values >= 0) & (values <= MAX_SENSITIVITY))]
    if wrong.size:
        raise SencacheError(
            f"{source}: {name} holds {wrong[0]:g}; only numbers from 0 to {MAX_SENSITIVITY:g} make sense, "
            "calibrate anew",
            "npz.out-of-range",
        )
    return values


# ---- the archive


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
            _check_members(archive.infolist(), names, source)
            texts = {m.filename.removesuffix(".npy"): _decompress(archive, m) for m in archive.infolist()}
    except SencacheError:
        raise
    # A damaged archive makes zipfile raise almost anything, from BadZipFile to struct.error.
    except Exception as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise SencacheError(
            f"{source} is not a sound npz archive ({problem[:100]}); download it again", "npz.damaged"
        ) from None
    return {name: _array(text, name, source) for name, text in texts.items()}


def _decompress(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        # Without a size the whole stream would be expanded at once, whatever the directory says.
        text = file.read(member.file_size)
    if len(text) != member.file_size:
        raise EOFError(f"{member.filename} is cut short")
    return text


def _check_members(members: list[zipfile.ZipInfo], names: Collection[str], source: str) -> None:
    """Raise SencacheError for what the archive's directory lists, before any of it is decompressed."""
    found = set[str]()
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name not in names or member.filename != f"{name}.npy":
            raise SencacheError(
                f"{source} holds {member.filename[:60]!r}; a sensitivity file holds only {', '.join(names)}",
                "npz.unknown-array",
            )
        if name in found:
            raise SencacheError(
                f"{source} holds {name} twice; use the file as published", "npz.duplicate-array"
            )
        plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if member.flag_bits & _ENCRYPTED or not plain:
            raise SencacheError(
                f"{source}: {name} is encrypted or packed in an unusual way; save it anew",
                "npz.unusual-packing",
            )
        found.add(name)
    expanded = sum(member.file_size for member in members)
    if expanded > MAX_BYTES:
        raise SencacheError(
            f"{source} expands to {expanded:,} bytes, more than the {MAX_BYTES:,} a sensitivity file may "
            "have; use the file as published",
            "npz.too-large",
        )


def _array(data: bytes, name: str, source: str) -> Array:
    """The array in one .npy file of version 1.0; NumPy writes others only for headers above `MAX_HEADER`."""
    if data[:8] != npy.magic(1, 0):
        raise SencacheError(
            f"{source}: {name} is not a NumPy array; use the file as published", "npz.not-an-array"
        )
    length = int.from_bytes(data[8:10], "little")
    if length > min(MAX_HEADER, len(data) - 10):
        raise SencacheError(
            f"{source}: {name} has a header of {length:,} bytes; use the file as published",
            "npz.not-an-array",
        )
    header, body = data[10 : 10 + length].decode("latin-1").strip(" \n"), memoryview(data)[10 + length :]
    try:
        shape, fortran, dtype = npy.read_array_header_1_0(io.BytesIO(data[8:]))
        _check_plain(header, shape, fortran, dtype)
    # Odd text makes the parser raise almost anything, from SyntaxError to MemoryError.
    except Exception:
        raise SencacheError(
            f"{source}: {name} is described as {header[:80]!r}; "
            "only plain arrays of integers or floats are read",
            "npz.object-dtype",
        ) from None
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
