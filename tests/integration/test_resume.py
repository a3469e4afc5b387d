"""Calibrations that were stopped go on where they stood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from pipelines import STEPS, Tiny, model_of, request_of

from sencache.calibration.profiling import CalibrationPlan, calibrate
from sencache.calibration.recording import simulate
from sencache.calibration.samples import sample_of
from sencache.errors import SencacheError
from sencache.models.placement import Placement
from sencache.policies import METHODS, make_policy
from sencache.profiles.profile import Profile

PROMPTS = ("one", "two", "three")


class Stop(Exception):
    """As a kill would."""


class Meter:
    """Counts steps, and forwards of the transformer; stops at the step it is told to."""

    def __init__(self, tiny: Tiny, stop_at: int | None = None) -> None:
        self.steps = self.forwards = 0
        self.stop_at = stop_at
        tiny.pipe.transformer.register_forward_pre_hook(self._forward)

    def _forward(self, module: Any, args: Any) -> None:
        self.forwards += 1

    def __call__(self) -> None:
        self.steps += 1
        if self.steps == self.stop_at:
            raise Stop


def plan(tiny: Tiny, samples: int = 3, **changes: Any) -> CalibrationPlan:
    return CalibrationPlan(model_of(tiny), request_of(tiny, **changes), PROMPTS, samples)


def comparable(profile: Profile) -> Profile:
    """Without how long it took."""
    assert profile.calibration is not None
    return profile.model_copy(update={"calibration": profile.calibration.model_copy(update={"seconds": 0})})


def test_after_a_kill_nothing_is_computed_again(tmp_path: Path) -> None:
    """And more samples add to those that are there."""
    tiny = pipelines.wan()
    whole = calibrate(plan(tiny))
    meter = Meter(tiny, stop_at=2 * STEPS + 3)
    with pytest.raises(Stop):
        calibrate(plan(tiny), tmp_path, meter)
    assert len(list(tmp_path.iterdir())) == 2
    again = Meter(tiny)
    resumed = calibrate(plan(tiny), tmp_path, again)
    assert again.forwards == STEPS * tiny.branches + STEPS - 1, "one video, and one more forward per step"
    assert again.steps == 3 * STEPS, "the progress of kept videos counts"
    assert comparable(resumed) == comparable(whole)
    idle = Meter(tiny)
    assert calibrate(plan(tiny), tmp_path, idle) == resumed
    assert idle.forwards == 0
    more = Meter(tiny)
    calibrate(plan(tiny, 4), tmp_path, more)
    assert more.forwards == 3 * STEPS - 1


def test_what_was_made_under_other_settings_is_not_taken() -> None:
    """A sample's file is named after all that it depends on."""
    tiny = pipelines.wan()
    first = plan(tiny, 1)
    changes: list[dict[str, Any]] = [{"seed": 5}, {"height": 32}, {"steps": 9}, {"guidance_scale": 2.0}]
    others = [plan(tiny, 1, **change) for change in changes]
    others += [replace(first, target="residual"), replace(first, prompts=("another",))]
    names = [one.tasks[0].name for one in (first, *others)]
    tiny.pipe.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    names.append(plan(tiny, 1).tasks[0].name)
    assert len(set(names)) == len(names) == 8


def test_samples_are_found_again_whatever_memory_is_free_and_on_whichever_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", str)
    task = plan(pipelines.wan(), 1).tasks[0]

    def name(**changes: Any) -> str:
        return replace(task, model=replace(task.model, **changes)).name

    one, other = (Placement("host", where, False, 0, 0) for where in ("device", "blocks"))
    on_gpu = name(device=torch.device("cuda:0"), placement=one)
    assert on_gpu == name(device=torch.device("cuda:1"), placement=other)
    assert len({on_gpu, name(), name(dtype=torch.bfloat16)}) == 3


def test_a_kept_sample_comes_back_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    task = plan(tiny, 1).tasks[0]
    made, read = (sample_of(task, tmp_path, lambda: None) for _ in range(2))
    for name in ("alphas", "magnitudes"):
        assert np.array_equal(getattr(made, name), getattr(read, name))
    assert (made.latent, made.evaluations, made.seconds) == (read.latent, read.evaluations, read.seconds)
    policies = pipelines.lively(tiny.name)
    # What is recorded is what each method reuses by default.
    policies["control"] = replace(policies["control"], target="prediction")
    for policy in policies.values():
        assert simulate(policy, made.recording).records == simulate(policy, read.recording).records


def test_a_damaged_sample_is_named(tmp_path: Path) -> None:
    tiny = pipelines.wan()
    calibrate(plan(tiny, 1), tmp_path)
    (kept,) = tmp_path.iterdir()
    for damage in (kept.read_bytes()[:-50], b"\x00" * 100, b""):
        kept.write_bytes(damage)
        with pytest.raises(SencacheError, match=rf"{kept.name}.*delete it"):
            calibrate(plan(tiny, 1), tmp_path)


def test_presets_cost_what_the_profile_says(tiny: Tiny, tmp_path: Path) -> None:
    """The spread of each preset, played again on every kept recording; its mean is near the budget."""
    profile = calibrate(plan(tiny), tmp_path)
    recordings = [sample_of(task, tmp_path, lambda: None).recording for task in plan(tiny).tasks]
    assert set(profile.presets) == set(profile.preset_nfe) == {"slow", "fast"}
    for preset, share in (("slow", 0.5), ("fast", 0.42)):
        usable = {name for name, cls in METHODS.items() if cls.caches and cls.serves(tiny.name)}
        assert set(profile.presets[preset]) == usable
        for method, given in profile.presets[preset].items():
            policy = make_policy(method, given, profile)
            counts = [simulate(policy, recording).nfe for recording in recordings]
            said = profile.preset_nfe[preset][method]
            assert (said.min, said.max) == (min(counts), max(counts))
            assert said.mean == pytest.approx(np.mean(counts), abs=1e-3)
            assert said.std == pytest.approx(np.std(counts), abs=1e-3)
        fixed = profile.preset_nfe[preset]["fixed"]
        assert fixed.std == 0 and abs(fixed.mean - share * STEPS) <= 1
