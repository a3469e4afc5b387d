"""What happened, step by step: plain data, made while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, SupportsFloat

from pydantic import BaseModel, ConfigDict, Field

Reason = Literal[
    "first_step",
    "warmup",
    "last_step",
    "forced",
    "above_tolerance",
    "max_reuses",
    "no_cache",
    "within_tolerance",
    "scheduled",
]


class StepRecord(BaseModel):
    """One step of one run: the decision, the signals it rests on and, where a comparison measured them, drift
    and time.

    `reference_step` is the last computed step before this one, `reuses` how many reuses in a row this step
    makes, `drift` the RMS difference of the latent to the reference lane's after the same step, `seconds` the
    whole step's time, `cost` the share of the blocks that a reused step ran: left out where that is none.
    `correction` is the RMS by which replay moved the latent before a computed step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    timestep: float
    sigma: float | None
    decision: Literal["compute", "reuse"]
    reason: Reason
    score: float | None
    tolerance: float | None
    reference_step: int | None
    reuses: int
    signals: dict[str, float]
    drift: float | None = None
    seconds: float | None = None
    # Left out where it follows from the decision, so that reports from before it existed keep their digest.
    cost: Annotated[float | None, Field(ge=0, le=1, exclude_if=lambda value: value is None)] = None
    correction: Annotated[float | None, Field(ge=0, exclude_if=lambda value: value is None)] = None

    @property
    def share(self) -> float:
        """Share of the blocks that ran."""
        return self.cost if self.cost is not None else float(self.decision == "compute")


class Trace:
    """The records of the newest run under an attached policy; iterable, and printable as one line.

    `transformer_calls` counts forwards whose blocks ran; `cache_bytes` is the most memory that the cached
    tensors took; `notes` say where the profile does not quite fit the run.
    """

    transformer_calls: int
    cache_bytes: int
    notes: list[str]

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, as a new run begins; lists handed out before stay as they are."""
        self._records: list[StepRecord] = []
        self._owed: list[tuple[int, SupportsFloat]] = []
        self.notes = []
        self.transformer_calls = self.cache_bytes = 0

    def add(self, record: StepRecord) -> None:
        """Put the next step on record."""
        self._records.append(record)

    def owe(self, correction: SupportsFloat) -> None:
        """The newest record's correction, still on its device: it is fetched when somebody asks."""
        self._owed.append((len(self._records) - 1, correction))

    @property
    def records(self) -> list[StepRecord]:
        """One a step so far."""
        for place, correction in self._owed:
            record = self._records[place]
            self._records[place] = record.model_copy(update={"correction": float(correction)})
        self._owed.clear()
        return self._records

    @property
    def nfe(self) -> int:
        """Steps whose network ran."""
        return sum(record.decision == "compute" for record in self._records)

    @property
    def cost(self) -> float:
        """What all steps cost, in evaluations: `nfe`, and the share of the blocks that reused steps ran."""
        return sum(record.share for record in self._records)

    @property
    def cache_ratio(self) -> float:
        """Reused steps over all steps, 0 for an empty trace."""
        return 1 - self.nfe / len(self) if self._records else 0.0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[StepRecord]:
        return iter(self.records)

    def __str__(self) -> str:
        cells = "".join("#" if record.decision == "compute" else "." for record in self._records)
        return f"{self.nfe} of {len(self)} steps computed  {cells}"
