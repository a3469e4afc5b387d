"""The parts of a profile: what was measured, on which schedule and shape, and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from sencache.schema import MAX_STEPS, Strict

# Those that are known are found where a model is at hand; a profile of another one loads and serves none.
Architecture = Annotated[str, Field(max_length=100, pattern=r"^[a-z][a-z0-9_.-]*$")]
Text = Annotated[str, Field(max_length=2000)]
# What may become a part of a path or of an address: no separators, no leading dots.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
Key = Annotated[str, Field(max_length=100, pattern=rf"^{NAME}$")]
Revision = Annotated[str, Field(max_length=100, pattern=rf"^{NAME}$")]
CHECKPOINT = rf"^{NAME}(/{NAME})?$"
Checkpoint = Annotated[str, Field(max_length=200, pattern=CHECKPOINT)]
# Far beyond all that was ever measured, and far below where a sum or product over a run overflows.
MAX_NUMBER = 1e9
Finite = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=MAX_NUMBER, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=MAX_NUMBER, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=1, le=2**40)]
# Without fail-fast, a file full of wrong entries costs a report on each of them.
Table = Annotated[tuple[NonNegative, ...], Field(fail_fast=True, min_length=1, max_length=MAX_STEPS)]
# A table has a number for every two steps, and a profile stays below a megabyte.
MAX_GRAM_STEPS, MAX_GRAM_TEXT = 200, 600_000
GramRow = Annotated[tuple[Finite, ...], Field(fail_fast=True, min_length=1, max_length=MAX_GRAM_STEPS)]
GramRows = Annotated[tuple[GramRow, ...], Field(fail_fast=True, min_length=1, max_length=MAX_GRAM_STEPS)]
Trajectory = Annotated[tuple[Finite, ...], Field(fail_fast=True, max_length=MAX_STEPS)]

SCALAR_SCHEMA = {
    "anyOf": [
        {"type": ["boolean", "null"]},
        {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER},
        {"type": "string", "maxLength": 2000},
    ]
}
SETTING_SCHEMA = {
    "anyOf": [*SCALAR_SCHEMA["anyOf"], {"type": "array", "items": SCALAR_SCHEMA, "maxItems": MAX_STEPS}]
}


def _setting(value: Any) -> Any:
    """`value`, a scalar or a flat list of scalars; anything deeper is refused."""
    entries = value if isinstance(value, (list, tuple)) else (value,)
    if len(entries) > MAX_STEPS:
        raise PydanticCustomError("too_long", f"a list of {len(entries):,}; give at most {MAX_STEPS:,}")
    for entry in entries:
        if not isinstance(entry, (bool, int, float, str, NoneType)):
            raise PydanticCustomError("nested", "give a scalar or a flat list of scalars")
        if isinstance(entry, str) and len(entry) > 2000:
            raise PydanticCustomError("too_long", "give a text of at most 2000 characters")
        if isinstance(entry, float) and not math.isfinite(entry):
            raise PydanticCustomError("finite_number", f"{entry} in it; give a finite number")
        if isinstance(entry, (int, float)) and abs(entry) > MAX_NUMBER:
            raise PydanticCustomError("less_than_equal", f"give numbers of at most {MAX_NUMBER:g}")
    return value


Setting = Annotated[Any, AfterValidator(_setting), WithJsonSchema(SETTING_SCHEMA)]
Settings = Annotated[dict[Key, Setting], Field(max_length=100)]
Presets = Annotated[
    dict[Key, Annotated[dict[Key, Settings], Field(max_length=16)]],
    Field(max_length=8),
]


class ModelId(Strict):
    """The checkpoint that was measured."""

    id: Checkpoint
    revision: Revision | None = None
    architecture: Architecture


class SamplerSchedule(Strict):
    """The scheduler and the timesteps it gave; `timesteps` is null only where a published source
    gives none.
    """

    scheduler: Text
    config: Settings = Field(default_factory=dict)
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    timesteps: Trajectory | None = None
    sigmas: Trajectory | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SamplerSchedule:
        for name in ("timesteps", "sigmas"):
            values = getattr(self, name)
            if values is not None and len(values) != self.steps:
                raise ValueError(
                    f"{name} has {len(values)} entries for {self.steps} steps; give one per step"
                )
        timesteps = self.timesteps or (0.0,)
        rising = timesteps[-1] > timesteps[0]
        for a, b in pairwise(timesteps):
            if a != b and (b > a) != rising:
                turned = "fall" if rising else "rise"
                raise ValueError(
                    f"timesteps {turned} from {a} to {b}; list them in sampling order, which falls or rises"
                )
        return self


class Shape(Strict):
    """Pixels, frames, and one sample's latent as the transformer sees it."""

    height: Side
    width: Side
    frames: Side
    latent: Annotated[tuple[Side, ...], Field(fail_fast=True, min_length=1, max_length=8)]
    elements: Annotated[int, Field(ge=1, le=2**60)]

    @model_validator(mode="after")
    def _consistent(self) -> Shape:
        if math.prod(self.latent) != self.elements:
            raise ValueError(
                f"elements is {self.elements}, but latent {self.latent} has {math.prod(self.latent)}"
            )
        return self


class SensitivityTable(Strict):
    """Per timestep: RMS change of the network per RMS change of the latent, and per unit of t on 0..1000."""

    alpha_x: Table
    alpha_t: Table
    alpha_x_std: Table | None
    """Standard deviation over the samples; None where a source does not say."""
    alpha_t_std: Table | None
    samples: Annotated[int, Field(ge=1, le=2**31)]
    target: Literal["output", "residual"]

    @model_validator(mode="after")
    def _same_length(self) -> SensitivityTable:
        expected = len(self.alpha_x)
        for name in ("alpha_t", "alpha_x_std", "alpha_t_std"):
            values = getattr(self, name)
            if values is not None and len(values) != expected:
                raise ValueError(
                    f"{name} has {len(values)} entries and alpha_x {expected}; give equally many"
                )
        if not any(self.alpha_x) and not any(self.alpha_t):
            raise ValueError(
                "alpha_x and alpha_t are all zero, so that every step would be reused; measure them"
            )
        return self


class MagnitudeRatios(Strict):
    """Mean ratio of residual norms, step i to step i-1, 1.0 for the first step (arXiv 2506.09045)."""

    ratios: Annotated[tuple[Positive, ...], Field(fail_fast=True, min_length=1, max_length=MAX_STEPS)]


class TeaCacheFit(Strict):
    """TeaCache's polynomial, highest power first, and the signal whose relative L1 change it rescales."""

    coefficients: Annotated[tuple[Finite, ...], Field(fail_fast=True, min_length=1, max_length=12)]
    signal: Literal["time_embedding", "time_projection", "modulated_input"]
    forced_first: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 1
    forced_last: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 1
    fitted_range: tuple[NonNegative, NonNegative] | None = None
    """Smallest and largest change of the signal that the polynomial was fitted on."""

    @property
    def monotone(self) -> bool | None:
        """Whether a larger change gives a larger value within `fitted_range`; None where that is unknown."""
        if self.fitted_range is None:
            return None
        low, high = self.fitted_range
        values = [self.rescale(low + (high - low) * k / 200) for k in range(201)]
        return all(a <= b for a, b in pairwise(values))

    @model_validator(mode="after")
    def _sound(self) -> TeaCacheFit:
        if self.rescale(self.liveliest()) <= 0:
            raise ValueError(
                "the polynomial is positive for no change from 0 to 1, so every step would be reused; "
                "fit it to measured changes"
            )
        if self.fitted_range and self.fitted_range[0] > self.fitted_range[1]:
            raise ValueError(f"fitted_range {self.fitted_range} ends before it begins; give low, then high")
        return self

    def liveliest(self) -> float:
        """The change from 0 to 1 that the polynomial rescales to most, of 201 that lie densest near 0.

        A relative L1 change above 1 would be a signal that has nothing of the step before left.
        """
        return max(((k / 200) ** 3 for k in range(201)), key=self.rescale)

    def rescale(self, change: float) -> float:
        """The polynomial at `change`."""
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return value


class ForecastTable(Strict):
    """Mean inner products of the guided predictions of any two steps (a Gram table), which fix the best
    linear forecast of a step from others, and how far it is expected to miss (`sencache.gram`).
    """

    table: GramRows
    target: Literal["prediction"]
    samples: Annotated[int, Field(ge=1, le=2**31)]
    ridge: Annotated[float, Field(alias="lambda", ge=0, le=1, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _consistent(self) -> ForecastTable:
        steps = len(self.table)
        for index, row in enumerate(self.table):
            if len(row) != steps:
                raise ValueError(
                    f"row {index} of the table has {len(row)} entries for {steps} rows; give one per row"
                )
        if sum(len(repr(value)) for row in self.table for value in row) > MAX_GRAM_TEXT:
            raise ValueError(
                f"the table takes more than {MAX_GRAM_TEXT:,} characters; store its numbers with 8 digits"
            )
        check_gram(self.table)
        return self


def check_gram(rows: Sequence[Sequence[float]]) -> None:
    """Raise ValueError where no vectors have these inner products, rounding apart."""
    import numpy as np

    table = np.array(rows)
    diagonal = table.diagonal()
    largest = diagonal.max()
    if diagonal.min() <= 1e-9 * abs(largest):
        step = int(diagonal.argmin())
        raise ValueError(
            f"the table has {diagonal[step]:g} at step {step} of its diagonal, a mean square; measure it anew"
        )
    rounding = 1e-5 * largest
    i, j = np.unravel_index(np.abs(table - table.T).argmax(), table.shape)
    if abs(table[i, j] - table[j, i]) > rounding:
        raise ValueError(
            f"the table has {table[i, j]:g} at {i}, {j} and {table[j, i]:g} at {j}, {i}; it must be symmetric"
        )
    if np.linalg.eigvalsh(table)[0] < -rounding:
        raise ValueError("the table is not positive semidefinite, as inner products are; measure it anew")


class Calibration(Strict):
    """How the numbers were measured."""

    prompts: Annotated[tuple[Text, ...], Field(fail_fast=True, max_length=4096)]
    seeds: Annotated[tuple[Seed, ...], Field(fail_fast=True, max_length=4096)]
    date: Text
    versions: Annotated[dict[Key, Text], Field(max_length=100)]
    seconds: NonNegative
    method: Literal["trajectory", "paper"] = "trajectory"
    """Along the model's own trajectories, or at noised latents of real clips as the SenCache paper does."""
    clips: Annotated[tuple[Text, ...], Field(fail_fast=True, max_length=4096)] = ()
    cost: NonNegative | None = None
    """Evaluations of the transformer, relative to generating the same videos plainly."""


class NfeSpread(Strict):
    """Network evaluations of one preset over the calibrated videos."""

    mean: NonNegative
    std: NonNegative
    min: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    max: Annotated[int, Field(ge=0, le=MAX_STEPS)]


PresetSpreads = Annotated[
    dict[Key, Annotated[dict[Key, NfeSpread], Field(max_length=16)]],
    Field(max_length=8),
]


class Provenance(Strict):
    """Where the numbers come from, and under which licence."""

    kind: Literal["measured", "published", "imported"]
    source: Text
    licence: Text


class Sensitivities:
    """Look-up of (alpha_x, alpha_t) by timestep: the nearest calibrated one, the earlier on a tie."""

    def __init__(self, timesteps: tuple[float, ...], table: SensitivityTable) -> None:
        self._rows = list(zip(timesteps, table.alpha_x, table.alpha_t, strict=False))

    def at(self, timestep: float) -> tuple[float, float]:
        """The pair at the calibrated timestep nearest to `timestep` (0..1000)."""
        _, alpha_x, alpha_t = min(self._rows, key=lambda row: abs(row[0] - timestep))
        return alpha_x, alpha_t
