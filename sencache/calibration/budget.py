"""Asking for a number of network evaluations instead of a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from sencache.calibration.recording import Recording, simulate
from sencache.policies.base import FORCED, Policy
from sencache.trace import Trace

LOOSEST, TIGHTEST = 100.0, 1e-4
COARSE, FINE = 19, 8
# Settings that name the computed steps themselves.
LAID_OUT = {"interval", "steps"}


def match_nfe(
    policy: Policy, recordings: Sequence[Recording], nfe: int, given: Collection[str] = ()
) -> Policy:
    """`policy` with its knob set so that its mean cost over `recordings`, in evaluations, comes as near to
    `nfe` as its rule allows.

    Settings named in `given` were chosen by the user and stay. Where the cap on consecutive reuses stands in
    the way, and was not given, it is raised as little as needed.
    """
    steps = len(recordings[0].timesteps)
    if not LAID_OUT & set(given):
        spread = policy.spread(steps, nfe, recordings[0].handovers)
        if spread is not None:
            return spread
    if policy.knob is None or policy.knob in given:
        return policy
    cost = _cost(recordings)
    candidates = list(_relaxed(policy, steps, given))
    floors = (cost(_set(candidate, LOOSEST)) for candidate in candidates)
    within = (c for c, floor in zip(candidates, floors, strict=True) if floor <= nfe + 0.5)
    # Where no cap reaches so low, the one that comes nearest; their floors are known by then.
    chosen = next(within, None) or min(candidates, key=lambda c: cost(_set(c, LOOSEST)))
    return _search(chosen, nfe, cost)


def check_budget(policy: Policy, steps: int, nfe: int, given: Collection[str]) -> None:
    """Raise SencacheError where the settings `given` rule the budget out; costs nothing, asked before a model
    runs.
    """
    if not LAID_OUT & set(given):
        policy.spread(steps, nfe)


def shortfalls(policy: Policy, trace: Trace, nfe: int | None) -> tuple[str, ...]:
    """What a run fell short of, in a sentence: reusing anything at all, or the budget by more than one."""
    forced = sum(record.reason in FORCED for record in trace)
    if policy.caches and forced == len(trace):
        return (
            f"its settings force each of the {forced} steps to be computed, so nothing is reused; "
            "take more steps or force fewer",
        )
    if nfe is None or not policy.caches or abs(trace.cost - nfe) <= 1:
        return ()
    because = f", {forced} of them forced by its settings" if forced > nfe else ""
    worth = f" at the cost of {trace.cost:.1f}" if trace.cost != trace.nfe else ""
    return (f"{nfe} evaluations were asked for and {trace.nfe} made{worth}{because}",)


def _cost(recordings: Sequence[Recording]) -> Callable[[Policy], float]:
    known: dict[str, float] = {}

    def mean_cost(policy: Policy) -> float:
        key = repr(policy.config())
        if key not in known:
            known[key] = sum(simulate(policy, recording).cost for recording in recordings) / len(recordings)
        return known[key]

    return mean_cost


def _relaxed(policy: Policy, steps: int, given: Collection[str]) -> Iterator[Policy]:
    yield policy
    cap = getattr(policy, "max_reuses", None)
    if cap is not None and "max_reuses" not in given:
        yield from (replace(policy, max_reuses=n) for n in range(cap + 1, steps))  # type: ignore[call-arg]


def _set(policy: Policy, value: float) -> Policy:
    assert policy.knob is not None
    return replace(policy, **{policy.knob: value})  # type: ignore[arg-type]


def _search(policy: Policy, nfe: int, cost: Callable[[Policy], float]) -> Policy:
    """A coarse logarithmic grid, then bisection where the cost passes `nfe`; on equal terms the tighter
    setting.
    """
    ratio = (LOOSEST / TIGHTEST) ** (1 / (COARSE - 1))
    grid = [_rounded(TIGHTEST * ratio**k) for k in range(COARSE)]
    tried = [(value, cost(_set(policy, value))) for value in (0.0, *grid)]
    low = max((value for value, reached in tried if value and reached >= nfe), default=grid[0])
    high = min((value for value in grid if value > low), default=grid[-1])
    for _ in range(FINE):
        middle = _rounded(math.sqrt(low * high))
        tried.append((middle, cost(_set(policy, middle))))
        low, high = (middle, high) if tried[-1][1] >= nfe else (low, middle)
    value, _ = min(tried, key=lambda pair: (abs(pair[1] - nfe), pair[0]))
    return _set(policy, value)


def _rounded(value: float) -> float:
    # What a person can read in a report and type again.
    return float(f"{value:.4g}")
