"""Profiles: calibrated constants of one checkpoint on one schedule, as strictly checked JSON.

One file serves SenCache (sensitivities), MagCache (ratios) and TeaCache (polynomial). Every field is checked
on reading; an unknown key, a wrong length or a number that is not finite is refused with the field's name and
the remedy.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from sencache.errors import SencacheError
from sencache.files import atomic
from sencache.schema import MAX_STEPS, Strict, first_problem

MAX_BYTES = 1_000_000

Architecture = Literal["wan", "cogvideox", "ltx"]
Text = Annotated[str, Field(max_length=2000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Table = Annotated[tuple[NonNegative, ...], Field(min_length=1, max_length=MAX_STEPS)]


class ModelId(Strict):
    """The checkpoint that was measured."""

    id: Text
    revision: Text | None = None
    architecture: Architecture


class SamplerSchedule(Strict):
    """The scheduler and the timesteps it gave; `timesteps` is null only where a published source
    gives none.
    """

    scheduler: Text
    config: dict[str, Any] = Field(default_factory=dict)
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    timesteps: Annotated[tuple[Finite, ...], Field(max_length=MAX_STEPS)] | None = None
    sigmas: Annotated[tuple[Finite, ...], Field(max_length=MAX_STEPS)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SamplerSchedule:
        for name in ("timesteps", "sigmas"):
            values = getattr(self, name)
            if values is not None and len(values) != self.steps:
                raise ValueError(
                    f"{name} has {len(values)} entries for {self.steps} steps; give one per step"
                )
        if self.timesteps and any(b > a for a, b in zip(self.timesteps, self.timesteps[1:], strict=False)):
            raise ValueError("timesteps must not rise; list them in sampling order, from high to low")
        return self


class Shape(Strict):
    """Pixels, frames, and one sample's latent as the transformer sees it."""

    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    frames: Annotated[int, Field(ge=1)]
    latent: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=8)]
    elements: Annotated[int, Field(ge=1)]


class SensitivityTable(Strict):
    """Per timestep: RMS change of the network per RMS change of the latent, and per unit of t on 0..1000."""

    alpha_x: Table
    alpha_t: Table
    alpha_x_std: Table
    alpha_t_std: Table
    samples: Annotated[int, Field(ge=1)]
    target: Literal["output", "residual"]

    @model_validator(mode="after")
    def _same_length(self) -> SensitivityTable:
        for name in ("alpha_t", "alpha_x_std", "alpha_t_std"):
            if len(getattr(self, name)) != len(self.alpha_x):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries and alpha_x {len(self.alpha_x)}; give "
                    f"equally many"
                )
        return self


class MagnitudeRatios(Strict):
    """Mean ratio of residual norms, step i to step i-1, 1.0 for the first step (arXiv 2506.09045)."""

    ratios: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=MAX_STEPS)]


class TeaCacheFit(Strict):
    """TeaCache's polynomial, highest power first, and the signal whose relative L1 change it rescales."""

    coefficients: Annotated[tuple[Finite, ...], Field(min_length=1, max_length=12)]
    signal: Literal["time_embedding", "time_projection", "modulated_input"]
    forced_first: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 1
    forced_last: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 1

    def rescale(self, change: float) -> float:
        """The polynomial at `change`."""
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return value


class Calibration(Strict):
    """How the numbers were measured."""

    prompts: Annotated[tuple[Text, ...], Field(max_length=4096)]
    seeds: Annotated[tuple[int, ...], Field(max_length=4096)]
    date: Text
    versions: dict[str, str]
    seconds: NonNegative


class Provenance(Strict):
    """Where the numbers come from, and under which licence."""

    kind: Literal["measured", "published", "imported"]
    source: Text
    licence: Text


class Sensitivities:
    """Look-up of (alpha_x, alpha_t) by timestep: the nearest calibrated one, the earlier on a tie."""

    def __init__(self, timesteps: tuple[float, ...], table: SensitivityTable) -> None:
        rows = zip(timesteps, table.alpha_x, table.alpha_t, strict=False)
        self._rows = sorted({t: (t, x, a) for t, x, a in reversed(list(rows))}.values())
        self._keys = [row[0] for row in self._rows]

    def at(self, timestep: float) -> tuple[float, float]:
        """The pair at the calibrated timestep nearest to `timestep` (0..1000)."""
        above = bisect_left(self._keys, timestep)
        near = self._rows[max(above - 1, 0) : above + 1]
        # Sampling runs from high to low timesteps: on a tie the higher one comes first.
        _, alpha_x, alpha_t = min(near, key=lambda row: (abs(row[0] - timestep), -row[0]))
        return alpha_x, alpha_t


class Profile(Strict):
    """Calibrated constants for one checkpoint and schedule; the JSON contract `sencache.profile/1`."""

    schema_: Literal["sencache.profile/1"] = Field(default="sencache.profile/1", alias="schema")
    model: ModelId
    schedule: SamplerSchedule
    shape: Shape | None
    guidance_scale: NonNegative | None
    dtype: Text | None
    sensitivity: SensitivityTable | None
    magcache: MagnitudeRatios | None
    teacache: TeaCacheFit | None
    presets: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    calibration: Calibration | None
    provenance: Provenance
    _origin: str | None = PrivateAttr(default=None)

    @property
    def origin(self) -> str | None:
        """Name of the file the profile was read from, None for one made in memory."""
        return self._origin

    @model_validator(mode="after")
    def _lengths(self) -> Profile:
        steps = self.schedule.steps
        if self.magcache and len(self.magcache.ratios) != steps:
            raise ValueError(
                f"magcache.ratios has {len(self.magcache.ratios)} entries for {steps} steps; give one per "
                f"step"
            )
        if self.sensitivity is None:
            return self
        if self.schedule.timesteps is None:
            raise ValueError("sensitivity needs schedule.timesteps; list the timesteps it was measured at")
        # The last step leads nowhere, so a trajectory calibration has no entry for it.
        if len(self.sensitivity.alpha_x) not in (steps, steps - 1):
            raise ValueError(
                f"sensitivity.alpha_x has {len(self.sensitivity.alpha_x)} entries for {steps} steps; "
                "give one per step, the last one optional"
            )
        return self

    @cached_property
    def sha256(self) -> str:
        """Of the canonical JSON text, as `write_profile` stores it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The canonical JSON text, one trailing newline."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    def sensitivities(self) -> Sensitivities:
        """SenCache's look-up; raises SencacheError when the profile has none."""
        if self.sensitivity is None or self.schedule.timesteps is None:
            raise SencacheError(
                f"the profile of {self.model.id} holds no sensitivities; calibrate this model for sencache"
            )
        return Sensitivities(self.schedule.timesteps, self.sensitivity)

    def magnitude_ratios(self, steps: int) -> tuple[float, ...]:
        """MagCache's ratios for `steps` steps, resampled to the nearest neighbour: index round(k (L-1) /
        (steps-1)).
        """
        if self.magcache is None:
            raise SencacheError(
                f"the profile of {self.model.id} holds no MagCache ratios; calibrate this model for magcache"
            )
        ratios = self.magcache.ratios
        if steps == len(ratios):
            return ratios
        scale = (len(ratios) - 1) / max(steps - 1, 1)
        return tuple(ratios[round(k * scale)] for k in range(steps))

    def teacache_fit(self) -> TeaCacheFit:
        """TeaCache's polynomial; raises SencacheError when the profile has none."""
        if self.teacache is None:
            raise SencacheError(
                f"the profile of {self.model.id} holds no TeaCache polynomial; calibrate this model for "
                f"teacache"
            )
        return self.teacache

    def require(self, architecture: str) -> None:
        """Raise SencacheError for a model of another architecture."""
        if architecture != self.model.architecture:
            raise SencacheError(
                f"the profile was made for {self.model.id} ({self.model.architecture}) and cannot serve a "
                f"{architecture} model; "
                f"choose a profile of a {architecture} model"
            )

    def differences(self, timesteps: tuple[float, ...], elements: int) -> list[str]:
        """What sets a run apart from the calibrated one, in sentences; such a run works, on
        resampled tables.
        """
        notes = []
        if len(timesteps) != self.schedule.steps:
            notes.append(
                f"the profile has {self.schedule.steps} steps, this run {len(timesteps)}: its tables are "
                f"resampled"
            )
        elif self.schedule.timesteps and not _close(timesteps, self.schedule.timesteps):
            notes.append(
                "the profile was made on other timesteps (another scheduler or shift): the nearest ones "
                "are used"
            )
        if self.shape and elements != self.shape.elements:
            notes.append(
                f"the profile was made on latents of {self.shape.elements} elements, this run has {elements}"
            )
        return notes


def _close(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(abs(x - y) <= 1.0 for x, y in zip(a, b, strict=True))


def parse_profile(text: str | bytes, source: str = "profile") -> Profile:
    """The profile in `text`; raises SencacheError naming `source`, the field, the value and the remedy."""
    if len(text) > MAX_BYTES:
        raise SencacheError(
            f"{source} has {len(text):,} bytes, more than the {MAX_BYTES:,} a profile may have; choose a "
            f"profile file"
        )
    try:
        return Profile.model_validate_json(text)
    except ValidationError as error:
        where, value, problem = first_problem(error)
        raise SencacheError(
            f"{source}: {where} is {value!r} ({problem}); correct it or calibrate anew"
        ) from None


def load_profile(path: str | os.PathLike[str]) -> Profile:
    """Read and check one profile file; raises SencacheError when it is missing, too large or not a valid
    profile.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SencacheError(
                f"{path} is larger than the {MAX_BYTES:,} bytes a profile may have; choose a profile file"
            )
        profile = parse_profile(path.read_bytes(), str(path))
    except OSError as error:
        raise SencacheError(f"cannot read profile {path} ({error.strerror}); check the path") from None
    profile._origin = path.name
    return profile


def write_profile(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write `profile` in one move; raises SencacheError when the place cannot be written."""
    with atomic(path) as temporary:
        temporary.write_text(profile.to_json(), encoding="utf-8")


def bundled_profiles() -> dict[str, Path]:
    """The profiles that come with the software, by name: beside the package in a checkout, inside it when
    installed.
    """
    package = Path(__file__).parent
    folder = next(f for f in (package / "bundled_profiles", package.parent / "profiles") if f.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def bundled_profile(name: str) -> Path:
    """The file of the bundled profile `name`; raises SencacheError naming those there are."""
    found = bundled_profiles()
    if name not in found:
        raise SencacheError(f"no bundled profile {name!r}; there are {', '.join(found) or 'none'}")
    return found[name]
