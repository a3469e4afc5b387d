"""Other samplers for the same checkpoint."""

from __future__ import annotations

import pytest
from diffusers import CogVideoXDDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from sencache.errors import SencacheError
from sencache.models.loading import describe_scheduler, other_scheduler

UNIPC = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
EULER = FlowMatchEulerDiscreteScheduler(shift=3.0)
DYNAMIC = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
DDIM = CogVideoXDDIMScheduler(prediction_type="v_prediction", snr_shift_scale=1.0, beta_end=0.02)


def test_wan_samplers_keep_the_shift_and_walk_from_noise() -> None:
    """The classes space their steps differently for one shift; which one ran is in the report."""
    euler = other_scheduler(UNIPC, "wan", "euler", None)
    back = other_scheduler(EULER, "wan", "unipc", None)
    assert (euler.config.shift, back.config.flow_shift) == (3.0, 3.0)
    assert back.config.use_flow_sigmas and back.config.prediction_type == "flow_prediction"
    for scheduler in (euler, back):
        scheduler.set_timesteps(10)
        assert scheduler.sigmas[0] == pytest.approx(1, abs=0.01) and len(scheduler.timesteps) == 10


@pytest.mark.parametrize(("own", "name"), [(UNIPC, None), (UNIPC, "euler"), (EULER, "unipc")])
def test_a_shift_pushes_the_schedule_towards_noise(own: object, name: str | None) -> None:
    low, high = (other_scheduler(own, "wan", name, shift) for shift in (1.0, 8.0))
    for scheduler in (low, high):
        scheduler.set_timesteps(10)
    assert all(a < b for a, b in zip(low.sigmas[2:9], high.sigmas[2:9], strict=True))
    assert describe_scheduler(high) == f"{type(high).__name__} shift 8"


def test_cogvideox_samplers_share_their_settings() -> None:
    assert other_scheduler(DDIM, "cogvideox", None, None) is DDIM
    dpm = other_scheduler(DDIM, "cogvideox", "dpm", None)
    assert type(dpm).__name__ == "CogVideoXDPMScheduler"
    assert (dpm.config.prediction_type, dpm.config.beta_end) == ("v_prediction", 0.02)
    assert describe_scheduler(dpm) == "CogVideoXDPMScheduler"


@pytest.mark.parametrize(
    ("own", "architecture", "name", "shift", "message"),
    [
        (UNIPC, "wan", "ddim", None, "unknown scheduler 'ddim'; this model takes unipc, euler"),
        (DDIM, "cogvideox", None, 3.0, "takes no shift"),
        (DYNAMIC, "ltx", None, 3.0, "takes no shift"),
        (UNIPC, "wan", None, 0.0, "a shift of 0 is out of range"),
        (UNIPC, "wan", None, float("nan"), "a shift of nan is out of range"),
    ],
)
def test_what_does_not_fit_is_refused(
    own: object, architecture: str, name: str | None, shift: float | None, message: str
) -> None:
    with pytest.raises(SencacheError, match=message):
        other_scheduler(own, architecture, name, shift)
