"""Asking for a number of network evaluations instead of a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

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
    known: dict[str, float] = {}

    def cost(candidate: Policy, value: float) -> float:
        """Mean cost with the knob at `value`."""
        candidate = _set(candidate, value)
        key = repr(candidate.config())
        if key not in known:
            known[key] = sum(simulate(candidate, run).cost for run in recordings) / len(recordings)
        return known[key]

    candidates = [policy]
    cap = getattr(policy, "max_reuses", None)
    if cap is not None and "max_reuses" not in given:
        candidates += [replace(policy, max_reuses=n) for n in range(cap + 1, steps)]  # type: ignore[call-arg]
    within = (candidate for candidate in candidates if cost(candidate, LOOSEST) <= nfe + 0.5)
    # Where no cap reaches so low, the one that comes nearest; their costs are known by then.
    chosen = next(within, None) or min(candidates, key=lambda candidate: cost(candidate, LOOSEST))
    return _set(chosen, _search(nfe, partial(cost, chosen)))


def _set(policy: Policy, value: float) -> Policy:
    assert policy.knob is not None
    return replace(policy, **{policy.knob: value})  # type: ignore[arg-type]


def _search(nfe: int, cost: Callable[[float], float]) -> float:
    """The value whose cost comes nearest: a coarse logarithmic grid, then bisection where the cost passes
    `nfe`; on equal terms the tighter one.
    """
    ratio = (LOOSEST / TIGHTEST) ** (1 / (COARSE - 1))
    grid = [_rounded(TIGHTEST * ratio**k) for k in range(COARSE)]
    tried = {value: cost(value) for value in (0.0, *grid)}
    low = max((value for value in grid if tried[value] >= nfe), default=grid[0])
    high = min((value for value in grid if value > low), default=grid[-1])
    for _ in range(FINE):
        middle = _rounded(math.sqrt(low * high))
        tried[middle] = cost(middle)
        low, high = (middle, high) if tried[middle] >= nfe else (low, middle)
    return min(tried, key=lambda value: (abs(tried[value] - nfe), value))


def _rounded(value: float) -> float:
    # What a person can read in a report and type again.
    return float(f"{value:.4g}")


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
