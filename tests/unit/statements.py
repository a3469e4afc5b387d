"""What every rule is held to: a plain statement of it.

The statements know no state: each says, from the steps computed so far, whether step i may be reused. They
are written from the papers' and official scripts' rules, not from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import pytest
from strategies import Row, rows

from sencache.policies import Decision

Judge = Callable[[int, list[int]], tuple[bool, str, float | None, float | None, dict[str, float]]]


def unroll(total: int, judge: Judge) -> list[Row]:
    """The rows of a run in which `judge(i, computed)` speaks about every step but the first."""
    computed, found = [0], [Row(False, "first_step", None, None, {}, None, 0)]
    for i in range(1, total):
        verdict = judge(i, computed)
        found.append(Row(*verdict, computed[-1], i - computed[-1] if verdict[0] else 0))
        if not verdict[0]:
            computed.append(i)
    return found


def must(reason: str) -> tuple[bool, str, None, None, dict[str, float]]:
    return False, reason, None, None, {}


def scored(
    reuse: bool, score: float, limit: float, **signals: float
) -> tuple[bool, str, float, float, dict[str, float]]:
    return reuse, "within_tolerance" if reuse else "above_tolerance", score, limit, signals


def total_of(values: Sequence[float]) -> float:
    # sum() compensates rounding from Python 3.12 on; the published scripts add one by one.
    return reduce(add, values, 0.0)


def agree(decisions: Sequence[Decision], stated: Sequence[Row]) -> None:
    """The same decisions; the same numbers up to the rounding of differently ordered operations."""
    for decision, row in zip(rows(decisions), stated, strict=True):
        assert decision._replace(score=None, signals={}) == row._replace(score=None, signals={})
        assert (decision.score is None) == (row.score is None)
        assert decision.score is None or decision.score == pytest.approx(row.score, rel=1e-9, abs=1e-12)
        assert decision.signals == pytest.approx(row.signals, rel=1e-9, abs=1e-12)


def clear_cut(stated: Sequence[Row]) -> bool:
    """No score so near its tolerance that the order of float operations could tip it."""
    judged = [(row.score, row.tolerance) for row in stated if row.score is not None]
    return all(abs(score - limit) > 1e-7 * (1 + limit) for score, limit in judged)
