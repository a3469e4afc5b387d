"""FirstBlockCache: reuse while the first block says the same as at the last computed step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from sencache.measures import relative_l1
from sencache.policies.base import (
    STRICT,
    NonNegative,
    Policy,
    Reason,
    Rule,
    Schedule,
    Signals,
    Step,
    TargetName,
    Verdict,
    register,
)
from sencache.policies.look import Look
from sencache.policies.senses import Choice, Recorded, Seen, Sense
from sencache.policies.tables import Changes, Table

if TYPE_CHECKING:
    from torch import Tensor


def _head(seen: Seen) -> Tensor | None:
    return None if seen.head is None else seen.head[seen.conditional]


class HeadChange(Sense):
    """`head_change`: mean|f - f_r| / mean|f_r| of what the first block adds, r the last computed step."""

    words: ClassVar[Mapping[str, str]] = {"head_change": "change of the first block"}
    first_block = True

    def __init__(self) -> None:
        self._now: Tensor | None = None
        self._reference: Tensor | None = None

    def arrive(self, seen: Seen) -> None:
        self._now = _head(seen)

    def values(self) -> dict[str, Tensor]:
        assert self._now is not None and self._reference is not None
        return {"head_change": relative_l1(self._now, self._reference).amax()}

    def note_computed(self, seen: Seen) -> None:
        self._reference = self._now

    def tensors(self) -> Iterable[Tensor | None]:
        return (self._reference,)

    @classmethod
    def tables(cls, target: str) -> Mapping[str, Table]:
        return {"head_change": Changes(_head)}

    @classmethod
    def read(cls, run: Recorded, choice: Choice, step: int, computed: Sequence[int]) -> Signals:
        return {"head_change": float(run.tables["head_change"][step, computed[-1]])}


@register
@dataclass(frozen=True, config=STRICT)
class FirstBlockCache(Policy):
    """First-block caching (chengzeyi/ParaAttention; `FirstBlockCacheConfig` of diffusers).

    The first block runs at every step and adds f to the hidden states. Reuse what the other blocks added
    while `mean|f - f_r| / mean|f_r| <= threshold`, r the last computed step. No warm-up, no cap and no forced
    last step. Where diffusers decides for each guidance branch apart, the prompt's own decides here for all.
    Nothing to calibrate.
    """

    name: ClassVar[str] = "firstblock"
    summary: ClassVar[str] = "runs the first block at every step, and the others when its result changes"
    senses: ClassVar[tuple[type[Sense], ...]] = (HeadChange,)
    knob: ClassVar[str | None] = "threshold"
    look: ClassVar[Look | None] = Look("FirstBlockCache", "#4d7c0f", "#a3c763")

    threshold: NonNegative = 0.05
    target: TargetName = field(default="tail", kw_only=True)

    def _rule(self, schedule: Schedule) -> Rule:
        return _Rule(self.threshold)


class _Rule(Rule):
    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def judge(self, step: Step, signals: Signals) -> Verdict:
        change = signals["head_change"]
        reuse = change <= self.threshold
        reason: Reason = "within_tolerance" if reuse else "above_tolerance"
        return Verdict(reuse, reason, change, self.threshold, {"head_change": change})
