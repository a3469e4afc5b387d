"""The sensitivity files of the SenCache authors -> profiles.

Such a file holds, per timestep of its schedule, `J_x_norm`, the L2 change of the network's output per L2
change of the latent, and `J_t_norm`, the L2 norm of its difference quotient in t (0..1000), each a mean over
samples. The x part has no unit and is taken as it is. The t part grows with the root of the number of
elements, and is divided by it, so that both are RMS per element as everywhere here. The Wan calibration
script stores `raw_data` [samples, steps, 2] instead, which is averaged.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sencache.errors import SencacheError
from sencache.hub.archive import MAX_BYTES, Array, parse_archive
from sencache.hub.official import Facts, Stated, facts_of
from sencache.policies.soundness import check_presets
from sencache.profiles.constants import ModelId, Provenance, SamplerSchedule, SensitivityTable
from sencache.profiles.profile import Profile
from sencache.reading import read_limited
from sencache.schema import MAX_STEPS

NAMES = ("timesteps", "J_x_norm", "J_t_norm", "sample_counts", "raw_data")
# No network has a sensitivity anywhere near it.
MAX_SENSITIVITY = 1e9


@dataclass(frozen=True)
class _Table:
    """One file, float64: timesteps [steps], mean and spread of J_x and J_t [steps, 2]; samples if given."""

    timesteps: Array
    means: Array
    spread: Array | None
    samples: int | None


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
    otherwise than known. Codes: those of `reading.read_limited` and `archive.parse_archive`,
    `npz.missing-array`, `npz.wrong-shape`, `npz.out-of-range`, `npz.timesteps`, `npz.all-zero`, and those of
    `soundness.check_presets`.
    """
    path = Path(path)
    stated = Stated(model, shift, tuple(latent) if latent is not None else None)
    return parse_npz(read_limited(path, "sensitivity file", MAX_BYTES), path.name, stated, source)


def parse_npz(data: bytes, name: str, stated: Stated | None = None, source: str | None = None) -> Profile:
    """`import_npz` of the content of a file called `name`."""
    table = _table(parse_archive(data, NAMES, name), name)
    digest = hashlib.sha256(data).hexdigest()
    facts = facts_of(name, digest, table.timesteps, table.means, stated or Stated())
    profile = _profile(table, facts, source or facts.source)
    check_presets(profile)
    return profile.located(name)


def _table(arrays: dict[str, Array], source: str) -> _Table:
    if "timesteps" not in arrays:
        raise SencacheError(
            f"{source} holds no timesteps; use the file as the calibration script wrote it",
            "npz.missing-array",
        )
    timesteps = _column(arrays["timesteps"], "timesteps", source)
    steps = len(timesteps)
    if not 2 <= steps <= MAX_STEPS or timesteps[0] > 1000 or not (np.diff(timesteps) < 0).all():
        raise SencacheError(
            f"{source}: timesteps must be 2 to {MAX_STEPS} values that fall from at most 1000, and they are "
            f"{steps} from {timesteps[0]:g} to {timesteps[-1]:g}; list them in sampling order",
            "npz.timesteps",
        )
    if {"J_x_norm", "J_t_norm"} <= arrays.keys():
        columns = [_column(arrays[name], name, source, steps) for name in ("J_x_norm", "J_t_norm")]
        means = np.stack(columns, axis=1)
        table = _Table(timesteps, means, None, _samples(arrays, source, steps))
    elif "raw_data" in arrays:
        table = _averaged(timesteps, arrays["raw_data"], source)
    else:
        raise SencacheError(
            f"{source} holds neither J_x_norm and J_t_norm nor raw_data; choose another file",
            "npz.missing-array",
        )
    if not table.means.max(axis=0).all():
        raise SencacheError(
            f"{source}: J_x_norm or J_t_norm is zero throughout, so nothing was measured; calibrate anew",
            "npz.all-zero",
        )
    return table


def _column(values: Array, name: str, source: str, length: int | None = None) -> Array:
    if values.ndim != 1 or length not in (None, len(values)) or not len(values):
        expected = f"one value for each of the {length} timesteps" if length else "a list of numbers"
        raise SencacheError(
            f"{source}: {name} has shape {values.shape}, and should be {expected}; choose another file",
            "npz.wrong-shape",
        )
    return _sound(values, name, source)


def _sound(values: Array, name: str, source: str) -> Array:
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


def _samples(arrays: dict[str, Array], source: str, steps: int) -> int | None:
    """The fewest samples behind any timestep."""
    if "sample_counts" not in arrays:
        return None
    counts = _column(arrays["sample_counts"], "sample_counts", source, steps)
    fewest = float(counts.min())
    if fewest < 1:
        raise SencacheError(
            f"{source}: sample_counts holds {fewest:g}; every timestep needs a sample, calibrate anew",
            "npz.out-of-range",
        )
    return int(fewest)


def _averaged(timesteps: Array, raw: Array, source: str) -> _Table:
    if raw.ndim != 3 or not raw.shape[0] or raw.shape[1:] != (len(timesteps), 2):
        raise SencacheError(
            f"{source}: raw_data has shape {raw.shape}, and should be [samples, {len(timesteps)}, 2]; "
            "choose another file",
            "npz.wrong-shape",
        )
    values = _sound(raw, "raw_data", source)
    return _Table(timesteps, values.mean(axis=0), values.std(axis=0), raw.shape[0])


def _profile(table: _Table, facts: Facts, source: str) -> Profile:
    root = math.sqrt(facts.shape.elements)
    return Profile(
        schema_="sencache.profile/1",
        model=ModelId(id=facts.model, revision=None, architecture=facts.architecture),
        schedule=SamplerSchedule(
            scheduler=facts.scheduler,
            config=facts.config,
            steps=len(table.timesteps),
            timesteps=tuple(table.timesteps.tolist()),
        ),
        shape=facts.shape,
        guidance_scale=facts.guidance_scale,
        dtype=facts.dtype,
        sensitivity=SensitivityTable(
            alpha_x=tuple(table.means[:, 0].tolist()),
            alpha_t=tuple((table.means[:, 1] / root).tolist()),
            alpha_x_std=None if table.spread is None else tuple(table.spread[:, 0].tolist()),
            alpha_t_std=None if table.spread is None else tuple((table.spread[:, 1] / root).tolist()),
            samples=table.samples or facts.samples,
            target="output",
        ),
        magcache=None,
        teacache=None,
        calibration=None,
        provenance=Provenance(kind="imported", source=source, licence="unknown"),
    )
