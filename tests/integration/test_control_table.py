"""Control with a forecast table on live pipelines, and its whole run stated anew."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from measuring import Sampled, calibrated, pattern, under
from pipelines import STEPS

from sencache.engine.attach import attach
from sencache.models.model import load
from sencache.policies import Control, Fixed
from sencache.profiles.profile import Profile
from sencache.schema import Request
from sencache.trace import Trace

# ---- stated anew

Values = dict[int, np.ndarray]


class Stated:
    """What the docstring of Control says of a run of N steps at an exact budget, in NumPy.

    `values` are the predictions of the computed steps. Nothing of the package is used.
    """

    def __init__(self, table: np.ndarray, ridge: float, nfe: int, most: int) -> None:
        self.table, self.ridge, self.nfe, self.most = table, ridge, nfe, most
        self.last = len(table) - 1

    def fit(self, nodes: list[int], step: int) -> tuple[np.ndarray, float]:
        """Weights of the nodes, and the error expected of them: least squares of the change since the newest
        node by the changes between nodes, each damped by its own size.
        """
        units = np.eye(len(self.table))
        changes = np.diff(units[nodes], axis=0)
        products = changes @ self.table @ changes.T
        wanted = changes @ self.table @ (units[step] - units[nodes[-1]])
        share = np.linalg.solve(products + self.ridge * np.diag(np.diag(products)), wanted)
        missed = units[nodes[-1]] + share @ changes - units[step]
        squared = missed @ self.table @ missed / self.table[step, step]
        return (missed + units[step])[nodes], math.sqrt(max(squared, 0.0))

    def run(self, values: Values) -> tuple[list[int], dict[int, float], dict[int, int]]:
        """The computed steps; at every step judged, what is expected to be missed, and by which forecast."""
        computed, expected, choices = [0, 1], {}, {}
        factors, average = np.zeros(3), None
        serving, following = 0, 2
        for step in range(2, self.last + 1):
            if step > 2:
                choices[step] = serving
                expected[step] = math.exp(factors[serving]) * self.fit(computed[-1 - serving :], step)[1]
            if step == following:
                missed, off = self.revealed(computed, step, values)
                factors = 0.8 * factors + 0.2 * off
                average = missed if average is None else 0.7 * average + 0.3 * missed
                serving = int(np.argmin(average))
                computed.append(step)
                following = self.planned(computed, serving, math.exp(factors[serving]))
        return computed, expected, choices

    def revealed(self, computed: list[int], step: int, values: Values) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms: of what each of three forecasts would have missed, and of how far that is from what was
        expected of it.
        """
        missed, off = [], []
        for nodes in (computed[-1:], computed[-2:], computed[-3:]):
            error = self.fit(nodes, step)[1]
            wrong = values[step] - self.mixed(nodes, step, values)
            missed.append(math.log(np.linalg.norm(wrong) / np.linalg.norm(values[step])))
            off.append(min(max(missed[-1] - math.log(error), math.log(0.1)), math.log(10)))
        return np.array(missed), np.array(off)

    def mixed(self, nodes: list[int], step: int, values: Values) -> np.ndarray:
        """The value at `step` as those of the nodes give it."""
        return np.asarray(self.fit(nodes, step)[0] @ np.stack([values[node] for node in nodes]))

    def planned(self, computed: list[int], serving: int, factor: float) -> int:
        """The next step that is computed, under the tolerance that spends what is left, found by halving."""
        left, low, high, tried = self.nfe - len(computed), 1e-4, 10.0, []
        for _ in range(20):
            tolerance = math.sqrt(low * high)
            first = self.stop(computed, serving, factor, tolerance)
            nodes, count = [*computed, first], 1
            while nodes[-1] < self.last:
                nodes.append(self.stop(nodes, 1, 1.0, tolerance))
                count += 1
            tried.append((abs(count - left), tolerance, first))
            if count == left:
                break
            low, high = (tolerance, high) if count > left else (low, tolerance)
        return min(min(tried)[2], self.last - left + 1) if left > 1 else self.last

    def stop(self, nodes: list[int], serving: int, factor: float, tolerance: float) -> int:
        """Where reuse after the last of the `nodes` ends."""
        end = min(nodes[-1] + 1 + self.most, self.last)
        steps = range(nodes[-1] + 1, end)
        above = (s for s in steps if factor * self.fit(nodes[-1 - serving :], s)[1] > tolerance)
        return next(above, end)


@pytest.mark.parametrize("nfe", [7, 12])
def test_a_run_at_a_budget_is_as_control_says(bundled_profile: Profile, nfe: int) -> None:
    """Which steps are computed, which forecast serves, what it is expected to miss, and what the sampler is
    given, at first and again in the replay.
    """
    model, steps = load("tiny-wan"), 20
    size: dict[str, Any] = {"steps": steps, "height": 64, "width": 64, "frames": 5, "guidance_scale": 4.0}
    request = Request(prompt="a red circle moving right", **size)
    encoded = model.encode(request.prompt, "", request.guidance_scale)
    policy = Control(profile=bundled_profile).spread(steps, nfe)
    sampled = Sampled(model)
    with attach(model.pipe, policy) as trace:
        model.latent(model.pipe, encoded, request)
    times = [record.timestep for record in trace]
    taken: dict[int, list[np.ndarray]] = {step: [] for step in range(steps)}
    for t, prediction, _ in sampled.calls:
        taken[times.index(t)].append(prediction.double().numpy().ravel())
    values = {record.step: taken[record.step][0] for record in trace if record.decision == "compute"}

    own, measured = bundled_profile.schedule.sigmas, bundled_profile.forecast
    assert own is not None and measured is not None
    ratio, wanted = (np.log(1 / np.array(sigmas) - 1) for sigmas in (own, [record.sigma for record in trace]))
    place = np.array([np.interp(wanted, ratio, unit) for unit in np.eye(len(own))])
    table = place.T @ np.array(measured.table) @ place
    stated = Stated(table, measured.ridge, nfe, policy.max_reuses)
    computed, expected, choices = stated.run(values)
    assert computed == list(values) and len(computed) == nfe
    for record in trace:
        if record.score is not None:
            assert record.score == pytest.approx(expected[record.step], rel=1e-5)
            assert record.signals["predicted_error"] == record.score
            assert record.signals["choice"] == choices[record.step]
        if record.decision == "reuse":
            before = [step for step in computed if step < record.step]
            around = [*before[-2:], computed[len(before)]]
            for prediction, nodes in zip(
                taken[record.step], (before[-1 - choices[record.step] :], around), strict=True
            ):
                forecast = stated.mixed(nodes, record.step, values)
                assert np.abs(prediction - forecast).max() < 1e-5 * np.abs(forecast).max()
    assert len(set(choices.values())) > 1


# ---- other pipelines and calls


def test_nothing_is_repaired_across_a_hand_over() -> None:
    """Under a tolerance that reuses all it may: three steps of each expert are computed first."""
    tiny = pipelines.wan(two=True)
    policy = Control(profile=calibrated(tiny, steps=20), tolerance=10.0, max_reuses=2)
    sampled = Sampled(tiny)
    _, trace = under(tiny, policy, steps=20)
    (handover,) = [record.step for record in trace if record.reason == "no_cache"]
    played = pattern(trace)
    assert played[:4] == "CCCR" and played[handover - 1 : handover + 4] == "RCCCR"
    repaired = {record.step for record in trace if record.correction is not None}
    assert repaired == {step for step in range(20) if played[step - 1 : step + 1] == "RC"} - {handover}
    counts = Counter(t for t, _, _ in sampled.calls)
    last = max(step for step in repaired if step < handover)
    assert {counts[trace.records[step].timestep] for step in range(last + 1, handover)} == {1}


@pytest.mark.parametrize("nfe", [7, 14])
def test_two_experts_keep_a_budget(nfe: int) -> None:
    tiny = pipelines.wan(two=True)
    policy = Control(profile=calibrated(tiny, steps=20)).spread(20, nfe)
    assert under(tiny, policy, steps=20)[1].nfe == nfe


VARIANTS: dict[str, dict[str, Any]] = {"unguided": {"guidance_scale": 1.0}, "two-prompts": {"batch": 2}}
MADE = {
    **{f"{name}-image": (make, {}) for name, make in pipelines.FROM_IMAGE.items()},
    **{f"{n}-{v}": (make, own) for n, make in pipelines.ALL.items() for v, own in VARIANTS.items()},
}


@pytest.mark.parametrize("made", MADE)
def test_at_tolerance_zero_it_is_the_plain_pipeline_and_at_a_budget_nearly(made: str) -> None:
    make, changes = MADE[made]
    tiny = make()
    policy = Control(profile=calibrated(tiny, **{**changes, "batch": 1}), tolerance=0.0)
    plain = tiny(**changes)
    latents, trace = under(tiny, policy, **changes)
    assert trace.nfe == STEPS and torch.equal(latents, plain)
    at_budget, trace = under(tiny, policy.spread(STEPS, 7), **changes)
    held, _ = under(tiny, same_steps(trace), **changes)
    assert trace.nfe == 7
    assert 0 < (at_budget - plain).norm() < (held - plain).norm()


def same_steps(trace: Trace) -> Fixed:
    """The same steps computed, the prediction held in between."""
    computed = tuple(record.step for record in trace if record.decision == "compute")
    return Fixed(steps=computed, forced_first=1, target="prediction")
