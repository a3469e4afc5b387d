"""What was recorded decides as the live run did, and a profile is of the runs that it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from measuring import size, with_table
from pipelines import METHODS, STEPS, Tiny

from sencache import policies
from sencache.calibration.budget import match_nfe
from sencache.calibration.profiling import (
    CalibrationPlan,
    calibrate,
    forecast_table,
    magnitude_ratios,
    sensitivity,
)
from sencache.calibration.recording import Recorder, Recording, simulate
from sencache.calibration.samples import Sample, probe
from sencache.engine.attach import attach
from sencache.models.model import Model
from sencache.policies import Control, Fixed, Full
from sencache.policies.senses import Sense
from sencache.policies.targets import TARGETS
from sencache.schema import Request
from sencache.trace import StepRecord, Trace

# --- Recordings -----------------------------------------------------------------------------------


def everything() -> set[tuple[type[Sense], str]]:
    """What every sense keeps of a run, for all targets."""
    senses = {sense for cls in policies.METHODS.values() for sense in cls.senses}
    return {(sense, target) for sense in senses for target in TARGETS}


def recorded(tiny: Tiny, **changes: Any) -> Recording:
    recorder = Recorder(pipelines.SIGNALS[tiny.name], everything())
    with attach(tiny.pipe, Full(), observer=recorder):
        tiny(**changes)
    return recorder.recording()


@pytest.fixture(scope="module")
def plain() -> Callable[[Tiny], Recording]:
    """The plain run of a tiny model, whose weights are the same wherever it is made."""
    known: dict[str, Recording] = {}

    def recording(tiny: Tiny) -> Recording:
        if tiny.name not in known:
            known[tiny.name] = recorded(tiny)
        return known[tiny.name]

    return recording


def alike(simulated: Trace, live: Trace, steps: int = STEPS) -> None:
    """The same decisions for the same reasons, on signals that agree to rounding."""

    def numbers(record: StepRecord) -> dict[str, float]:
        return {**record.signals, **({} if record.score is None else {"score": record.score})}

    blank: dict[str, Any] = {"score": None, "signals": {}}
    for ours, theirs in zip(simulated.records[:steps], live.records[:steps], strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-3, abs=1e-7)
        assert ours.model_copy(update=blank) == theirs.model_copy(update=blank)


@pytest.mark.parametrize("method", METHODS)
def test_a_simulation_that_reuses_nothing_is_the_live_run(
    tiny: Tiny, method: str, plain: Callable[[Tiny], Recording]
) -> None:
    """Every record, signals and scores included: tables of distances against the sensors of a live run."""
    for target in ("residual", "output", "delta"):
        policy = replace(pipelines.exact(tiny.name)[method], target=target)
        with attach(tiny.pipe, policy) as trace:
            tiny()
        alike(simulate(policy, plain(tiny)), trace)


@pytest.mark.parametrize("target", ["prediction", "residual"])
def test_with_a_forecast_table_it_is_the_live_run_as_well(
    tiny: Tiny, target: str, plain: Callable[[Tiny], Recording]
) -> None:
    """What three forecasts missed, which of them serves, and what is expected of it."""
    recording = plain(tiny)
    policy = Control(profile=with_table(tiny, recording), tolerance=0.0, target=target)
    with attach(tiny.pipe, policy) as trace:
        tiny()
    assert policy.forecast == "fitted" and trace.nfe == STEPS
    assert {"choice", "miss_1", "miss_3", "predicted_error"} <= trace.records[-2].signals.keys()
    alike(simulate(policy, recording), trace)


def test_without_guidance_it_is_the_live_run_as_well(tiny: Tiny) -> None:
    recording = recorded(tiny, guidance_scale=1.0)
    for policy in pipelines.exact(tiny.name).values():
        with attach(tiny.pipe, policy) as trace:
            tiny(guidance_scale=1.0)
        alike(simulate(policy, recording), trace)


@pytest.mark.parametrize("forecast", ["hold", "linear"])
@pytest.mark.parametrize("method", ["fixed", "magcache", "teacache"])
def test_a_simulation_of_what_reuse_cannot_change_is_the_live_run(
    tiny: Tiny, method: str, forecast: Any, plain: Callable[[Tiny], Recording]
) -> None:
    """These decide on the step, on calibrated ratios, or on t alone; on LTX TeaCache looks at the latent."""
    policy = replace(pipelines.lively(tiny.name)[method], forecast=forecast)
    with attach(tiny.pipe, policy) as trace:
        tiny()
    simulated = simulate(policy, plain(tiny))
    assert 1 < trace.nfe < STEPS
    if (tiny.name, method) == ("ltx", "teacache"):
        assert [record.step for record in simulated] == [record.step for record in trace]
        assert simulated.records[1].score == pytest.approx(trace.records[1].score, rel=1e-5)
    else:
        alike(simulated, trace)


@pytest.mark.parametrize("method", METHODS)
def test_up_to_the_step_after_the_first_reuse_a_simulation_is_the_live_run(
    tiny: Tiny, method: str, plain: Callable[[Tiny], Recording]
) -> None:
    """The latent that follows a reuse is the first that the recording does not have."""
    policy = pipelines.lively(tiny.name)[method]
    with attach(tiny.pipe, policy) as trace:
        tiny()
    simulated = simulate(policy, plain(tiny))
    first = next(record.step for record in trace if record.decision == "reuse")
    alike(simulated, trace, first + 1)


def test_nor_does_a_forecast_table_reach_back_to_the_expert_before() -> None:
    tiny = pipelines.wan(two=True)
    recording = recorded(tiny)
    policy = Control(profile=with_table(tiny, recording), tolerance=0.0)
    with attach(tiny.pipe, policy) as trace:
        tiny()
    (handover,) = recording.handovers
    reasons = [record.reason for record in trace]
    assert reasons[handover : handover + 4] == ["no_cache", "warmup", "warmup", "above_tolerance"]
    alike(simulate(policy, recording), trace)


@pytest.mark.parametrize("method", ["none", *METHODS])
def test_a_simulation_starts_afresh_where_the_second_expert_takes_over(method: str) -> None:
    """Nothing is kept of the transformer that takes over, so its first step is computed in a live run."""
    tiny = pipelines.wan(two=True)
    recording, policy = recorded(tiny), {"none": Full(), **pipelines.exact("wan")}[method]
    with attach(tiny.pipe, policy) as trace:
        tiny()
    alike(simulate(policy, recording), trace)
    (handover,) = recording.handovers
    assert (trace.records[handover].reason == "no_cache") == (method != "none")


@pytest.mark.parametrize("method", ["fixed", "magcache", "teacache", "control"])
def test_two_experts_meet_a_budget_that_one_meets(method: str) -> None:
    tiny = pipelines.wan(two=True)
    policy = match_nfe(pipelines.lively("wan")[method], [recorded(tiny)], nfe := 7)
    with attach(tiny.pipe, policy) as trace:
        tiny()
    assert trace.nfe == nfe


def test_a_recording_is_of_the_prompts_own_sample(tiny: Tiny) -> None:
    """The latents that the pipeline's callback shows are those of the transformer's next call."""
    latents: list[torch.Tensor] = []
    keep = lambda _, index, t, tensors: latents.append(tensors["latents"].clone()) or {}  # noqa: E731
    recording = recorded(tiny, callback_on_step_end=keep)
    table = recording.tables["latent_rms"]
    assert table.shape == (STEPS, STEPS) and (table.diagonal() == 0).all() and (table == table.T).all()
    for i, j in [(1, 2), (3, 9), (11, 4)]:
        expected = size(latents[i - 1].double() - latents[j - 1].double()).item()
        assert table[i, j] == pytest.approx(expected, rel=1e-4)
    assert recording.schedule.timesteps == tuple(tiny.pipe.scheduler.timesteps.tolist())


# --- The whole of it ------------------------------------------------------------------------------


def test_a_profile_of_the_bundled_model(tiny_wan: Model) -> None:
    """Two samples, few steps: what is in it was measured on the runs that it names."""
    request = Request(
        prompt="any", steps=6, height=64, width=64, frames=17, guidance_scale=4.0, seed=3, negative_prompt=""
    )
    prompts = ("a red circle moving right", "a blue square moving up")
    done: list[int] = []
    plan = CalibrationPlan(tiny_wan, request, prompts, samples=2)
    profile = calibrate(plan, on_step=lambda: done.append(1))
    assert len(done) == plan.steps == 2 * request.steps
    assert profile.calibration is not None
    assert profile.calibration.prompts == prompts and profile.calibration.seeds == (3, 4)
    assert profile.schedule.timesteps == tuple(tiny_wan.pipe.scheduler.timesteps.tolist())
    assert profile.shape is not None and profile.shape.latent == (16, 5, 8, 8)
    probes: list[Sample] = []
    for seed, prompt in enumerate(prompts, start=3):
        asked = request.model_copy(update={"prompt": prompt, "seed": seed})
        encoded = tiny_wan.encode(prompt, "", 4.0)
        call = lambda e=encoded, r=asked: tiny_wan.latent(tiny_wan.pipe, e, r)  # noqa: E731
        probes.append(probe(tiny_wan.pipe, call))
    assert profile.sensitivity == sensitivity(probes)
    assert profile.magcache == magnitude_ratios(probes)
    assert profile.magnitude_ratios(6)[0] == 1.0
    assert profile.teacache_fit().signal == "time_projection"
    assert profile.forecast == forecast_table(probes)
    assert (
        profile.gram(profile.schedule.timesteps).table.tolist() == np.array(profile.forecast.table).tolist()
    )


def test_the_forecast_table_is_of_what_the_sampler_gets(tiny: Tiny) -> None:
    """Inner products of the guided predictions, caught at the scheduler of a plain run, for two videos."""
    caught: list[torch.Tensor] = []
    step = tiny.pipe.scheduler.step

    def catch(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        caught.append(model_output.double().flatten())
        return step(model_output, *args, **kwargs)

    samples, expected = [], []
    for seed in (1, 2):
        call = partial(tiny, seed=seed)
        samples.append(probe(tiny.pipe, call))
        tiny.pipe.scheduler.step = catch
        call()
        del tiny.pipe.scheduler.step
        products = torch.stack([torch.stack([a @ b for b in caught]) for a in caught])
        expected.append(products / products.diagonal().mean())
        caught.clear()
    table = forecast_table(samples)
    assert table is not None and (table.target, table.samples, table.ridge) == ("prediction", 2, 1e-3)
    found = torch.tensor(table.table, dtype=torch.float64)
    assert found.shape == (STEPS, STEPS) and torch.equal(found, found.T)
    assert torch.allclose(found, torch.stack(expected).mean(dim=0), rtol=1e-5)
    assert found.diagonal().mean().item() == pytest.approx(1)


def test_a_run_too_long_for_a_table_is_calibrated_without_one(tiny: Tiny) -> None:
    sample = probe(tiny.pipe, tiny)
    long = replace(sample.recording, tables={"predictions": np.eye(201)})
    assert forecast_table([replace(sample, recording=long)]) is None


def test_a_calibrated_profile_runs_live_as_it_was_simulated(tiny: Tiny) -> None:
    """The profile's own ratios, and a schedule that follows from them alone."""
    observed = probe(tiny.pipe, tiny)
    ratios = magnitude_ratios([observed])
    profile = pipelines.profile(tiny.name).model_copy(
        update={"magcache": ratios, "sensitivity": sensitivity([observed])}
    )
    policy = replace(pipelines.lively(tiny.name)["magcache"], profile=profile, threshold=0.3)
    with attach(tiny.pipe, policy) as trace:
        tiny()
    alike(simulate(policy, observed.recording), trace)
    assert trace.nfe < STEPS and simulate(Fixed(interval=2), observed.recording).nfe == STEPS // 2
