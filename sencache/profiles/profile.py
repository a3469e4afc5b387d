"""Profiles: calibrated constants of one checkpoint on one schedule, as strictly checked JSON.

One file serves SenCache (sensitivities), MagCache (ratios) and TeaCache (polynomial). Every field is checked
on reading; an unknown key, a wrong length or a number that is not finite is refused with the field's name and
the remedy. What it would do in a run is judged where policies are known: profiles are read with
`policies.loading`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from sencache.errors import SencacheError
from sencache.files import atomic
from sencache.profiles.constants import (
    Calibration,
    ForecastTable,
    MagnitudeRatios,
    ModelId,
    NonNegative,
    Presets,
    PresetSpreads,
    Provenance,
    SamplerSchedule,
    Sensitivities,
    SensitivityTable,
    Shape,
    TeaCacheFit,
    Text,
)
from sencache.reading import check_json
from sencache.schema import Strict, fault, first_problem

if TYPE_CHECKING:
    from sencache.gram import Gram

MAX_BYTES = 1_000_000


Part = TypeVar("Part")


class Profile(Strict):
    """Calibrated constants for one checkpoint and schedule; the JSON contract `sencache.profile/1`."""

    schema_: Literal["sencache.profile/1"] = Field(alias="schema")
    model: ModelId
    schedule: SamplerSchedule
    shape: Shape | None
    guidance_scale: NonNegative | None
    dtype: Text | None
    sensitivity: SensitivityTable | None
    magcache: MagnitudeRatios | None
    teacache: TeaCacheFit | None
    # Left out where there is none, so that profiles from before it existed keep their hash.
    forecast: Annotated[ForecastTable | None, Field(exclude_if=lambda value: value is None)] = None
    presets: Presets = Field(default_factory=dict)
    preset_nfe: PresetSpreads = Field(default_factory=dict)
    calibration: Calibration | None
    provenance: Provenance
    _origin: str | None = PrivateAttr(default=None)
    _repo: str | None = PrivateAttr(default=None)
    _revision: str | None = PrivateAttr(default=None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    @property
    def origin(self) -> str | None:
        """Name of the file the profile was read from, None for one made in memory."""
        return self._origin

    @property
    def repo(self) -> str | None:
        """The Hub repository it was pulled from, if it was."""
        return self._repo

    @property
    def revision(self) -> str | None:
        """The commit of that repository."""
        return self._revision

    def with_origin(self, origin: str, repo: str | None = None, revision: str | None = None) -> Profile:
        """The same profile, as read from the file `origin`, of the Hub's `repo` at `revision` if given."""
        located = self.model_copy()
        located._origin, located._repo, located._revision = origin, repo, revision
        return located

    @model_validator(mode="after")
    def _lengths(self) -> Profile:
        steps = self.schedule.steps
        if self.magcache and len(self.magcache.ratios) != steps:
            raise ValueError(
                f"magcache.ratios has {len(self.magcache.ratios)} entries for {steps} steps; "
                "give one per step"
            )
        if self.forecast and len(self.forecast.table) != steps:
            raise ValueError(
                f"forecast.table has {len(self.forecast.table)} rows for {steps} steps; give one per step"
            )
        if self.forecast and self.schedule.timesteps is None:
            raise ValueError("forecast needs schedule.timesteps; list the timesteps it was measured at")
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

    @property
    def serves(self) -> tuple[str, ...]:
        """The methods that the profile has constants for."""
        parts = {"sencache": self.sensitivity, "magcache": self.magcache, "teacache": self.teacache}
        return tuple(method for method, part in parts.items() if part is not None)

    @property
    def sha256(self) -> str:
        """Of the canonical JSON text, as `write_profile` stores it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The canonical JSON text, one trailing newline."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    def sensitivities(self) -> Sensitivities:
        """SenCache's look-up; raises SencacheError when the profile has none."""
        table = self._part(self.sensitivity, "sensitivities", "sencache", "profile.no-sensitivities")
        return Sensitivities(self.schedule.timesteps or (), table)

    def magnitude_ratios(self, steps: int) -> tuple[float, ...]:
        """MagCache's ratios for `steps` steps, resampled to the nearest neighbour: index round(k (L-1) /
        (steps-1)).
        """
        ratios = self._part(self.magcache, "MagCache ratios", "magcache", "profile.no-ratios").ratios
        if steps == 1:
            return ratios[-1:]
        scale = (len(ratios) - 1) / (steps - 1)
        return tuple(ratios[round(k * scale)] for k in range(steps))

    def teacache_fit(self) -> TeaCacheFit:
        """TeaCache's polynomial; raises SencacheError when the profile has none."""
        return self._part(self.teacache, "TeaCache polynomial", "teacache", "profile.no-polynomial")

    def _part(self, part: Part | None, what: str, method: str, code: str) -> Part:
        if part is None:
            raise SencacheError(
                f"the profile of {self.model.id} holds no {what}; "
                f"calibrate this model for {method} or pull a measured profile with `profiles pull`",
                code,
            )
        return part

    def gram(self, timesteps: Sequence[float], sigmas: Sequence[float] | None = None) -> Gram:
        """The table of fitted forecasts for a run of these steps: as it was measured where they are the
        calibrated ones, interpolated otherwise.

        Along log((1 - sigma) / sigma), where all sigmas lie between 0 and 1, else along t. Raises
        SencacheError when the profile has no table, or the run goes more than a step beyond the calibrated
        ones.
        """
        from sencache.gram import Gram, mixing

        own = self.schedule
        if self.forecast is None or own.timesteps is None:
            raise SencacheError(
                f"the profile of {self.model.id} holds no table for fitted forecasts; "
                "calibrate this model, or choose forecast=linear",
                "profile.no-forecast",
            )
        measured = Gram(self.forecast.table, self.forecast.ridge)
        if _close(timesteps, own.timesteps):
            return measured
        for reached, (end, *inner) in (
            (timesteps[0], own.timesteps[:2]),
            (timesteps[-1], own.timesteps[:-3:-1]),
        ):
            step = end - (inner or [end])[0]
            if (reached - end) * (1 if step >= 0 else -1) > abs(step):
                raise SencacheError(
                    f"the run's timestep {reached:g} lies more than a step beyond the calibrated ones of "
                    f"{self.model.id}, which end at {end:g}; calibrate this model on the run's schedule",
                    "profile.out-of-range",
                )
        if all(given and min(given) > 0 and max(given) < 1 for given in (own.sigmas, sigmas)):
            log_snr, wanted = ([math.log((1 - s) / s) for s in given or ()] for given in (own.sigmas, sigmas))
            return measured.resample(mixing(log_snr, wanted))
        return measured.resample(mixing(own.timesteps, timesteps))

    def forecast_notes(self, timesteps: Sequence[float]) -> list[str]:
        """That a run's table of fitted forecasts is not as it was measured, in a sentence, where `gram` would
        interpolate it.
        """
        if self.forecast is None or _close(timesteps, self.schedule.timesteps or ()):
            return []
        return ["the profile's table of fitted forecasts is of other timesteps: it is interpolated"]

    def require(self, architecture: str) -> None:
        """Raise SencacheError for a model of another architecture."""
        if architecture != self.model.architecture:
            raise SencacheError(
                f"the profile was made for {self.model.id} ({self.model.architecture}) and cannot serve "
                f"a {architecture} model; choose a profile of a {architecture} model",
                "profile.wrong-architecture",
            )

    def elsewhere(self, model: str) -> list[str]:
        """That the profile was measured on another checkpoint than `model`, where it was: it may serve that
        too, but nobody has measured how well.
        """
        own = self.model.id
        return [] if model == own else [f"the profile was measured on another checkpoint, {own}"]

    def differences(self, timesteps: tuple[float, ...], elements: int) -> list[str]:
        """What sets a run apart from the calibrated one, in sentences; such a run works, on
        resampled tables.
        """
        notes = []
        if len(timesteps) != self.schedule.steps:
            notes.append(
                f"the profile has {self.schedule.steps} steps, this run {len(timesteps)}: "
                "its tables are resampled"
            )
        elif self.schedule.timesteps and not _close(timesteps, self.schedule.timesteps):
            notes.append(
                "the profile was made on other timesteps (another scheduler or shift): "
                "the nearest ones are used"
            )
        if self.shape and elements != self.shape.elements:
            notes.append(
                f"the profile was made on latents of {self.shape.elements} elements, this run has {elements}"
            )
        return notes


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= 1.0 for x, y in zip(a, b, strict=True))


def read_unchecked(text: str | bytes, source: str) -> Profile:
    """The profile in `text`, for `policies.loading` alone: nothing is known yet of what it would do in a run.

    Raises SencacheError naming `source`, the field, the value and the remedy.

    Its code is one of `file.too-large`, those of `reading.check_json`, and `profile.` with a kind of
    `schema.FAULTS` (`profile.unknown-key`) or `profile.wrong-schema`.
    """
    if len(text) > MAX_BYTES:
        raise SencacheError(
            f"{source} has {len(text):,} bytes, more than the {MAX_BYTES:,} a profile may have; "
            "choose a profile file",
            "file.too-large",
        )
    try:
        return Profile.model_validate_json(check_json(text, source), strict=True)
    except ValidationError as error:
        where, value, problem = first_problem(error)
        raise SencacheError(
            f"{source}: {where} is {value!r} ({problem}); correct it or calibrate anew",
            "profile." + ("wrong-schema" if where == "schema" else fault(error)),
        ) from None


def write_profile(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write `profile` in one move; raises SencacheError when the place cannot be written."""
    with atomic(path) as temporary:
        temporary.write_text(profile.to_json(), encoding="utf-8")
