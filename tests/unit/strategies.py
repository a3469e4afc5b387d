"""What the tests of policies, profiles and budgets share: profiles, runs as plain vectors, and a player."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from hypothesis import settings
from hypothesis import strategies as st

from sencache.calibration.recording import Recorder, Recording
from sencache.engine.step import StepState
from sencache.policies import (
    METHODS,
    Control,
    Decision,
    EasyCache,
    Fixed,
    Full,
    MagCache,
    Policy,
    SenCache,
    TeaCache,
)
from sencache.policies.base import Schedule, Step
from sencache.policies.firstblock import FirstBlockCache
from sencache.policies.seacache import SeaCache
from sencache.policies.senses import Sense
from sencache.policies.targets import TARGETS
from sencache.profiles.profile import Profile
from sencache.repair import SamplerStep

Vector = tuple[float, ...]


def profile_data(timesteps: Sequence[float] | None, steps: int | None = None, **parts: Any) -> dict[str, Any]:
    """The JSON of a profile over `timesteps` that holds `parts` and nothing else."""
    return {
        "schema": "sencache.profile/1",
        "model": {"id": "test/model", "revision": None, "architecture": "wan"},
        "schedule": {
            "scheduler": "TestScheduler",
            "config": {"flow_shift": 3.0},
            "steps": len(timesteps) if timesteps is not None else steps,
            "timesteps": None if timesteps is None else list(timesteps),
            "sigmas": None,
        },
        "shape": {"height": 32, "width": 48, "frames": 5, "latent": [4, 2, 4, 6], "elements": 192},
        "guidance_scale": 4.0,
        "dtype": "float32",
        "sensitivity": None,
        "magcache": None,
        "teacache": None,
        "presets": {},
        "calibration": None,
        "provenance": {"kind": "measured", "source": "a test", "licence": "CC0-1.0"},
        **parts,
    }


def sensitivity(alpha_x: Sequence[float], alpha_t: Sequence[float]) -> dict[str, Any]:
    """The sensitivity part of a profile."""
    return {
        "alpha_x": list(alpha_x),
        "alpha_t": list(alpha_t),
        "alpha_x_std": [0.0] * len(alpha_x),
        "alpha_t_std": [0.0] * len(alpha_t),
        "samples": 2,
        "target": "output",
    }


def sensitivity_profile(
    timesteps: Sequence[float], alpha_x: Sequence[float], alpha_t: Sequence[float]
) -> Profile:
    """A profile that serves SenCache."""
    return Profile.model_validate(profile_data(timesteps, sensitivity=sensitivity(alpha_x, alpha_t)))


def ratio_profile(ratios: Sequence[float]) -> Profile:
    """A profile that serves MagCache, without timesteps, as published ones are."""
    return Profile.model_validate(profile_data(None, len(ratios), magcache={"ratios": list(ratios)}))


def polynomial_profile(coefficients: Sequence[float], first: int = 1, last: int = 1) -> Profile:
    """A profile that serves TeaCache."""
    fit = {
        "coefficients": list(coefficients),
        "signal": "time_embedding",
        "forced_first": first,
        "forced_last": last,
    }
    return Profile.model_validate(profile_data(None, 50, teacache=fit))


def examples(count: int) -> settings:
    """So many examples, however slow the machine is."""
    return settings(max_examples=count, deadline=None)


def numbers(draw: st.DrawFn, count: int, least: int, most: int) -> list[int]:
    """`count` integers; drawn as bytes, which is much faster than one by one, and shrinks as well."""
    return [least + byte % (most - least + 1) for byte in draw(st.binary(min_size=count, max_size=count))]


@dataclass(frozen=True)
class Course:
    """What one uncached run shows, step by step: plain vectors on a dyadic grid, so that float32 holds
    them.
    """

    timesteps: tuple[float, ...]
    latents: tuple[Vector, ...]
    signals: tuple[Vector, ...]
    residuals: tuple[Vector, ...]
    outputs: tuple[Vector, ...]

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.timesteps, tuple(t / 1000 for t in self.timesteps))

    def __len__(self) -> int:
        return len(self.timesteps)


def _walk(draw: st.DrawFn, steps: int, start: float, least: int = -4) -> tuple[Vector, ...]:
    moves = numbers(draw, steps - 1, least, 4), numbers(draw, steps - 1, -4, 4)
    places = (accumulate([start, *(k / 16 for k in move)]) for move in moves)
    return tuple(zip(*places, strict=True))


def _falling(draw: st.DrawFn, steps: int) -> tuple[float, ...]:
    gaps = numbers(draw, steps, 1, 6)
    return tuple(accumulate(6.25 * k for k in gaps))[::-1]


@st.composite
def courses(draw: st.DrawFn, least: int = 1, most: int = 24, still: bool = False) -> Course:
    """Random walks over random falling timesteps; with `still` the latent may also stay where it is."""
    steps = draw(st.integers(least, most))
    latents = _walk(draw, steps, 0.0, -4 if still else 1)
    return Course(_falling(draw, steps), latents, *(_walk(draw, steps, 8.0) for _ in range(3)))


def minus(a: Vector, b: Vector) -> Vector:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def rms(a: Vector) -> float:
    return math.sqrt(sum(x * x for x in a) / len(a))


def mean_abs(a: Vector) -> float:
    return sum(abs(x) for x in a) / len(a)


def relative_change(signals: Sequence[Vector], i: int) -> float:
    """TeaCache's input: mean|s_i - s_(i-1)| / mean|s_(i-1)|."""
    return mean_abs(minus(signals[i], signals[i - 1])) / mean_abs(signals[i - 1])


def output_rate(course: Course, older: int, newer: int) -> float:
    """EasyCache's k: change of the output per change of the latent, from step `older` to step `newer`."""
    change = mean_abs(minus(course.outputs[newer], course.outputs[older]))
    return change / mean_abs(minus(course.latents[newer], course.latents[older]))


def missed(course: Course, nodes: Sequence[int], at: int) -> float:
    """|v - v_hat| / |v| at step `at`, v_hat extrapolated in t from two `nodes` or held from one."""
    guess = course.residuals[nodes[-1]]
    if len(nodes) == 2:
        a, b = nodes
        t_a, t_b, t = (course.timesteps[i] for i in (a, b, at))
        weight = (t_b - t) / (t_a - t_b)
        guess = tuple(
            v_b + weight * (v_b - v_a)
            for v_a, v_b in zip(course.residuals[a], course.residuals[b], strict=True)
        )
    return rms(minus(course.residuals[at], guess)) / rms(course.residuals[at])


class Gauge:
    """Measures a course as the engine's sensors do, and like them keeps what it measured when a rule
    forgets.
    """

    def __init__(self, course: Course, policy: Policy) -> None:
        self.course, self.order = course, 2 if policy.forecast == "linear" else 1
        self.computed: list[int] = []
        self.nodes: list[int] = []
        self.error: float | None = None
        self.reads: list[int] = []

    def read(self, i: int) -> dict[str, float]:
        self.reads.append(i)
        course, last = self.course, self.computed[-1]
        found = {
            "dx_rms": rms(minus(course.latents[i], course.latents[last])),
            "relative_l1": relative_change(course.signals, i),
            "input_change": mean_abs(minus(course.latents[i], course.latents[i - 1])),
            "output_norm": mean_abs(course.outputs[last]),
            # A course has one block.
            "head_change": mean_abs(minus(course.residuals[i], course.residuals[last]))
            / mean_abs(course.residuals[last]),
            "spectral_change": 0.01 + 0.01 * (i % 3),
        }
        if len(self.computed) > 1 and course.latents[self.computed[-2]] != course.latents[last]:
            found["rate"] = output_rate(course, self.computed[-2], last)
        return found if self.error is None else {**found, "forecast_error": self.error}

    def lost(self) -> None:
        self.nodes.clear()

    def compute(self, i: int) -> None:
        if len(self.nodes) == self.order:
            self.error = missed(self.course, self.nodes, i)
        self.nodes = [*self.nodes, i][-self.order :]
        self.computed.append(i)


@dataclass
class Player:
    """One rule going along one course."""

    policy: Policy
    course: Course
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rule = self.policy.start(self.course.schedule)
        self.gauge = Gauge(self.course, self.policy)

    def go(self, i: int, cached: bool = True) -> Decision:
        if not cached:
            self.gauge.lost()
        decision = self.rule.decide(self.course.schedule.step(i), lambda: self.gauge.read(i), cached=cached)
        if not decision.reuse:
            self.gauge.compute(i)
        self.decisions.append(decision)
        return decision


def play(
    policy: Policy, course: Course, uncached: Collection[int] = (), start: int = 0
) -> tuple[list[Decision], list[int]]:
    """The decisions from `start` on, nothing cached at the steps `uncached`; and the steps measured."""
    player = Player(policy, course)
    for i in range(start, len(course)):
        player.go(i, cached=i not in uncached)
    return player.decisions, player.gauge.reads


class Row(NamedTuple):
    """One decision as a plain statement of a rule gives it."""

    reuse: bool
    reason: str
    score: float | None
    tolerance: float | None
    signals: dict[str, float]
    reference_step: int | None
    reuses: int


def rows(decisions: Sequence[Decision]) -> list[Row]:
    return [
        Row(d.reuse, d.reason, d.score, d.tolerance, dict(d.signals), d.reference_step, d.reuses)
        for d in decisions
    ]


def computed_steps(decisions: Sequence[Decision | Row]) -> list[int]:
    return [i for i, decision in enumerate(decisions) if not decision.reuse]


def lively(timesteps: Sequence[float]) -> dict[str, Policy]:
    """Every method over `timesteps`, set so that it now reuses and now computes on a random course."""
    n = len(timesteps)
    table = sensitivity_profile(timesteps, [0.5 + 0.25 * (i % 3) for i in range(n)], [0.001] * n)
    ratios = ratio_profile([1.0, *(0.97 + 0.02 * (i % 3) for i in range(1, n))])
    return {
        "none": Full(),
        "fixed": Fixed(interval=3),
        "sencache": SenCache(table, tolerance=0.3, early_tolerance=0.15, max_reuses=3),
        "magcache": MagCache(ratios, threshold=0.06, max_reuses=3, retention=0.1),
        "teacache": TeaCache(polynomial_profile([3.0, -0.5, 1.0, 0.0]), threshold=0.04, forced_first=2),
        "easycache": EasyCache(threshold=0.05, forced_first=2),
        "control": Control(tolerance=0.02, max_reuses=4, forecast="linear", target="residual"),
        "firstblock": FirstBlockCache(threshold=0.04),
        "seacache": SeaCache(threshold=0.04),
        "control-hold": Control(tolerance=0.02, max_reuses=4, target="residual"),
    }


def everything() -> set[tuple[type[Sense], str]]:
    """What every sense keeps of a run, for all targets."""
    return {(sense, target) for cls in METHODS.values() for sense in cls.senses for target in TARGETS}


def recording_of(course: Course, copies: int = 1) -> Recording:
    """The course on record: one sample, every vector repeated `copies` times."""
    recorder = Recorder("time_embedding", everything())
    for index, timestep in enumerate(course.timesteps):
        signal, latent, residual, output = (
            torch.tensor([vectors[index] * copies])
            for vectors in (course.signals, course.latents, course.residuals, course.outputs)
        )
        state = StepState(Step(index, len(course), timestep), latent, slice(None), signal=signal)
        state.residual, state.output, state.head = residual, output, residual
        recorder.observe(state)
        recorder.note_prediction(state.step, sampled(output))
    return recorder.recording()


def sampled(prediction: torch.Tensor) -> SamplerStep:
    """What a sampler's step gets."""
    return SamplerStep(None, lambda model_output, sample: None, (prediction, prediction), {})


LIVELY = sorted(lively((2.0, 1.0)))
