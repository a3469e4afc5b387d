"""What happened, step by step: plain data, made while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

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

    @property
    def share(self) -> float:
        """Share of the blocks that ran."""
        return self.cost if self.cost is not None else float(self.decision == "compute")


class Trace:
    """The records of the newest run under an attached policy; iterable, and printable as one line.

    `transformer_calls` counts forwards whose blocks ran; `cache_bytes` is the most memory that the cached
    tensors took; `notes` say where the profile does not quite fit the run.
    """

    records: list[StepRecord]
    transformer_calls: int
    cache_bytes: int
    notes: list[str]

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, as a new run begins; lists handed out before stay as they are."""
        self.records, self.notes = [], []
        self.transformer_calls = self.cache_bytes = 0

    @property
    def nfe(self) -> int:
        """Steps whose network ran."""
        return sum(record.decision == "compute" for record in self.records)

    @property
    def cost(self) -> float:
        """What all steps cost, in evaluations: `nfe`, and the share of the blocks that reused steps ran."""
        return sum(record.share for record in self.records)

    @property
    def cache_ratio(self) -> float:
        """Reused steps over all steps, 0 for an empty trace."""
        return 1 - self.nfe / len(self.records) if self.records else 0.0

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[StepRecord]:
        return iter(self.records)

    def __str__(self) -> str:
        cells = "".join("#" if record.decision == "compute" else "." for record in self.records)
        return f"{self.nfe} of {len(self)} steps computed  {cells}"
