"""Replay against samplers that are run afresh, with nothing but the predictions that it says it used."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from sencache.errors import SencacheError
from sencache.forecasts import FORECASTS
from sencache.policies.steps import Schedule
from sencache.repair import NoRepair, Replay, SamplerStep

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SAMPLERS = {
    "unipc": lambda: UniPCMultistepScheduler(**FLOW),
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=5.0),
    "ddim": lambda: CogVideoXDDIMScheduler(prediction_type="v_prediction"),
    "dpm++": lambda: DPMSolverMultistepScheduler(**FLOW, solver_order=2),
}
COMPUTED = {0, 1, 2, 5, 7, 8, 12, 16, 19}
SHAPE = (2, 4, 3, 6, 6)


def field(t: float) -> torch.Tensor:
    """A prediction that is linear in t and does not look at the latent."""
    a, b = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return a + (t / 1000) * b


def sample(scheduler, repair, computed=COMPUTED, steps=20, between=lambda latent: latent, predict=field):
    """A sampler's loop as pipelines have it: hold between the computed steps. Returns all latents."""
    scheduler.set_timesteps(steps)
    schedule = Schedule(tuple(scheduler.timesteps.tolist()))
    latent = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    path, held = [], None
    for step, t in zip(schedule, scheduler.timesteps, strict=True):
        held = predict(float(t)) if step.index in computed else held
        call = SamplerStep(scheduler, scheduler.step, (held, t, latent), {"return_dict": False})
        taken = (
            repair.take_computed(step, call)[0] if step.index in computed else repair.take_reused(step, call)
        )
        latent = between(taken[0])
        path.append(latent)
    return path


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_field_linear_in_t_is_followed_exactly(name):
    full = sample(SAMPLERS[name](), NoRepair(FORECASTS["hold"]), computed=range(20))[-1]
    held = sample(SAMPLERS[name](), NoRepair(FORECASTS["hold"]))[-1]
    replayed = sample(SAMPLERS[name](), Replay(FORECASTS["hold"]))[-1]
    assert not torch.allclose(held, full, atol=1e-4)
    torch.testing.assert_close(replayed, full, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_latent_is_that_of_a_fresh_sampler_given_the_interpolated_predictions(name):
    seen = []
    path = sample(SAMPLERS[name](), Replay(FORECASTS["linear"]), predict=lambda t: wavy(t, seen))
    scheduler = SAMPLERS[name]()
    scheduler.set_timesteps(20)
    times = scheduler.timesteps.double()
    known = dict(zip(sorted(COMPUTED), seen, strict=True))
    latent = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for i in range(20):
        b, c = max(k for k in known if k <= i), min(k for k in known if k >= i)
        share = 0 if b == c else float((times[i] - times[b]) / (times[c] - times[b]))
        prediction = torch.lerp(known[b], known[c], share)
        latent = scheduler.step(prediction, scheduler.timesteps[i], latent, return_dict=False)[0]
        if i in COMPUTED:
            torch.testing.assert_close(path[i], latent, rtol=0, atol=1e-5)


def wavy(t: float, seen: list[torch.Tensor]) -> torch.Tensor:
    seen.append(field(t) * torch.cos(torch.tensor(t / 70)))
    return seen[-1]


def test_with_nothing_reused_no_bit_is_changed():
    for make in SAMPLERS.values():
        plain = sample(make(), NoRepair(FORECASTS["hold"]), computed=range(20))
        repaired = sample(make(), Replay(FORECASTS["hold"]), computed=range(20))
        assert all(torch.equal(a, b) for a, b in zip(plain, repaired, strict=True))


def test_what_the_pipeline_writes_into_the_latent_stays_and_the_rest_is_repaired():
    def first_frame_kept(latent):
        latent = latent.clone()
        latent[:, :, 0] = 7.0
        return latent

    full = sample(
        SAMPLERS["unipc"](), NoRepair(FORECASTS["hold"]), computed=range(20), between=first_frame_kept
    )[-1]
    replayed = sample(SAMPLERS["unipc"](), Replay(FORECASTS["hold"]), between=first_frame_kept)[-1]
    torch.testing.assert_close(replayed, full, rtol=0, atol=1e-5)


def test_latents_that_the_pipeline_rounds_are_rounded_in_the_replay_too():
    def rounded(latent):
        return latent.to(torch.bfloat16)

    full = sample(SAMPLERS["ddim"](), NoRepair(FORECASTS["hold"]), computed=range(20), between=rounded)
    replayed = sample(SAMPLERS["ddim"](), Replay(FORECASTS["hold"]), between=rounded)
    assert replayed[-1].dtype == torch.bfloat16
    torch.testing.assert_close(replayed[-1], full[-1], rtol=0, atol=0.02)


def test_a_latent_changed_in_place_is_refused():
    with pytest.raises(SencacheError, match=r"changes the latent before step 3 .* use repair=none"):
        sample(SAMPLERS["unipc"](), Replay(FORECASTS["hold"]), between=lambda latent: latent.mul_(0.99))


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
        DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    ],
    ids=["stochastic euler", "sde"],
)
def test_samplers_that_draw_noise_are_refused(scheduler):
    with pytest.raises(SencacheError, match=r"draws noise in its steps that cannot .* or repair=none"):
        sample(scheduler, Replay(FORECASTS["hold"]))


@pytest.mark.parametrize("computed", [COMPUTED, range(20)])
def test_noise_from_the_pipelines_own_generator_is_drawn_again(computed):
    """CogVideoX's sampler, which is handed its own last estimate as well: on a field linear in t the replayed
    run is the full one, noise included.
    """

    def run(repair, computed):
        scheduler = CogVideoXDPMScheduler(prediction_type="v_prediction")
        scheduler.set_timesteps(20)
        times, generator = scheduler.timesteps, torch.Generator().manual_seed(2)
        latent, old, held = field(3.0).float(), None, None
        for step, t in zip(Schedule(tuple(times.tolist())), times, strict=True):
            held = field(float(t)).float() if step.index in computed else held
            back = times[step.index - 1] if step.index else None
            options = {"generator": generator, "return_dict": False}
            call = SamplerStep(scheduler, scheduler.step, (held, old, t, back, latent), options)
            reuse = step.index not in computed
            latent, old = repair.take_reused(step, call) if reuse else repair.take_computed(step, call)[0]
        return latent

    full = run(NoRepair(FORECASTS["hold"]), range(20))
    torch.testing.assert_close(run(Replay(FORECASTS["hold"]), computed), full, rtol=0, atol=1e-4)


def test_another_network_is_not_interpolated_with():
    repair, scheduler = Replay(FORECASTS["hold"]), SAMPLERS["unipc"]()
    scheduler.set_timesteps(20)
    schedule = Schedule(tuple(scheduler.timesteps.tolist()))
    latent, corrections = field(3.0), []
    for step, t in zip(schedule, scheduler.timesteps, strict=True):
        call = SamplerStep(scheduler, scheduler.step, (field(float(t)), t, latent), {"return_dict": False})
        if step.index in (5, 6, 12):
            taken = repair.take_reused(step, call)
        else:
            if step.index == 7:
                repair.forget()
            taken, correction = repair.take_computed(step, call)
            corrections.append((step.index, correction))
        latent = taken[0]
    assert [index for index, correction in corrections if correction is not None] == [13]


def test_the_correction_is_the_distance_that_the_latent_moved():
    repair, scheduler = Replay(FORECASTS["hold"]), SAMPLERS["euler"]()
    scheduler.set_timesteps(20)
    times = scheduler.timesteps
    schedule = Schedule(tuple(times.tolist()))
    latent = field(3.0)
    for i, value in ((0, 2.0), (1, 2.0), (2, 5.0)):
        call = SamplerStep(
            scheduler, scheduler.step, (torch.full(SHAPE, value), times[i], latent), {"return_dict": False}
        )
        if i == 1:
            sigmas = copy.copy(scheduler.sigmas)
            latent = repair.take_reused(schedule.step(i), call)[0]
        else:
            taken, correction = repair.take_computed(schedule.step(i), call)
            latent = taken[0]
    # Halfway between 2 and 5 in t, over the length of one step.
    share = (times[1] - times[0]) / (times[2] - times[0])
    assert float(correction) == pytest.approx(abs(float(3.0 * share * (sigmas[2] - sigmas[1]))), rel=1e-5)
