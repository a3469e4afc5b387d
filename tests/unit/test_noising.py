"""The forward process and one solver step, against diffusers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from sencache.calibration.clips import Noising
from sencache.errors import SencacheError

STEPS = 20


def laid_out(scheduler: Any) -> Any:
    scheduler.set_timesteps(STEPS)
    return scheduler


def unipc(**changes: Any) -> Any:
    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0, **changes}
    return laid_out(UniPCMultistepScheduler(**settings))


FLOW = {
    "unipc": unipc,
    "euler": lambda: laid_out(FlowMatchEulerDiscreteScheduler(shift=3.0)),
    "inverted": lambda: laid_out(FlowMatchEulerDiscreteScheduler(shift=3.0, invert_sigmas=True)),
}
VARIANCE = {
    f"{cls.__name__}-{prediction}-{spacing}-{rescaled}": (
        lambda cls=cls, prediction=prediction, spacing=spacing, rescaled=rescaled: laid_out(
            cls(prediction_type=prediction, timestep_spacing=spacing, rescale_betas_zero_snr=rescaled)
        )
    )
    for cls, prediction, spacing, rescaled in (
        (CogVideoXDDIMScheduler, "v_prediction", "leading", False),
        (CogVideoXDPMScheduler, "v_prediction", "trailing", True),
        (CogVideoXDDIMScheduler, "epsilon", "trailing", False),
        (CogVideoXDPMScheduler, "sample", "leading", False),
    )
}
ALL = FLOW | VARIANCE


def draw(*seeds: int) -> list[torch.Tensor]:
    return [torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


@pytest.mark.parametrize("name", ALL)
def test_clips_are_noised_as_diffusers_does(name: str) -> None:
    scheduler, (clean, noise) = ALL[name](), draw(0, 1)
    for step in range(STEPS):
        t = scheduler.timesteps[step : step + 1]
        if name == "inverted":
            # diffusers knows no such thing: there sigma is the noise's share alone.
            expected = scheduler.scale_noise(noise, t, clean)
        elif name == "euler":
            expected = scheduler.scale_noise(clean, t, noise)
        else:
            expected = scheduler.add_noise(clean, noise, t)
        assert torch.allclose(Noising(scheduler).add_noise(clean, noise, step), expected, atol=1e-5), step


@pytest.mark.parametrize("name", ALL)
def test_the_exact_prediction_leads_to_the_same_mixture_at_the_next_step(name: str) -> None:
    """A deterministic step along the true prediction keeps clean latent and noise."""
    scheduler, (clean, noise) = ALL[name](), draw(0, 1)
    noising = Noising(scheduler)
    for step in range(2, STEPS - 1):
        signal, level = noising.levels(step)
        exact = {
            "flow_prediction": clean - noise if noising.inverted else noise - clean,
            "v_prediction": signal * noise - level * clean,
            "epsilon": noise,
            "sample": clean,
        }[noising.prediction]
        moved = noising.advance(noising.add_noise(clean, noise, step), exact, step)
        assert torch.allclose(moved, noising.add_noise(clean, noise, step + 1), atol=1e-4), step


@pytest.mark.parametrize("name", ["euler", "inverted"])
def test_a_flow_step_is_eulers(name: str) -> None:
    x, output = draw(2, 3)
    for step in range(STEPS - 1):
        scheduler = FLOW[name]()
        moved = Noising(scheduler).advance(x, output, step)
        scheduler.set_begin_index(step)
        expected = scheduler.step(output, scheduler.timesteps[step], x, return_dict=False)[0]
        assert torch.allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_a_variance_preserving_step_is_ddims(prediction: str) -> None:
    x, output = draw(2, 3)
    scheduler = laid_out(CogVideoXDDIMScheduler(prediction_type=prediction))
    for step in range(STEPS - 1):
        expected = scheduler.step(output, scheduler.timesteps[step], x, return_dict=False)[0]
        assert torch.allclose(Noising(scheduler).advance(x, output, step), expected, atol=2e-4), step


@pytest.mark.parametrize("name", ALL)
def test_half_precision_stays_and_is_computed_in_full(name: str) -> None:
    noising, (x, output) = Noising(ALL[name]()), draw(2, 3)
    half = noising.advance(x.bfloat16(), output.bfloat16(), 5)
    assert half.dtype == torch.bfloat16
    full = noising.advance(x.bfloat16().float(), output.bfloat16().float(), 5)
    assert torch.equal(half, full.bfloat16())


def test_an_unknown_prediction_is_refused() -> None:
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    scheduler.register_to_config(prediction_type="score")
    with pytest.raises(SencacheError, match=r"'score'.*trajectory"):
        Noising(scheduler)
