"""Calibration of real transformers: what it evaluates, and MagCache's ratios as diffusers measures them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pipelines
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from diffusers.hooks import MagCacheConfig
from measuring import size
from pipelines import STEPS, Tiny

from sencache.architectures import architecture_of
from sencache.calibration.profiling import magnitude_ratios
from sencache.calibration.samples import probe
from sencache.errors import SencacheError

# --- Real transformers ----------------------------------------------------------------------------

SETUPS: dict[str, Callable[[], Tiny]] = {
    "wan-unipc": pipelines.wan,
    "wan-image": pipelines.wan_image,
    "cogvideox-ddim-trailing": lambda: pipelines.cogvideox(
        CogVideoXDDIMScheduler(timestep_spacing="trailing")
    ),
    "cogvideox-dpm": lambda: pipelines.cogvideox(CogVideoXDPMScheduler(timestep_spacing="trailing")),
    "cogvideox-image": pipelines.cogvideox_image,
    "ltx": pipelines.ltx,
    "ltx-image": pipelines.ltx_image,
}


@pytest.mark.parametrize(
    ("setup", "guided"), [*((name, True) for name in SETUPS), ("wan-unipc", False), ("ltx", False)]
)
def test_calibrating_leaves_the_latents_alone(setup: str, guided: bool) -> None:
    tiny, changes = SETUPS[setup](), {} if guided else {"guidance_scale": 1.0}
    made: list[torch.Tensor] = []
    observed = probe(tiny.pipe, lambda: made.append(tiny(**changes)))
    assert torch.equal(made[0], tiny(**changes))
    assert observed.alphas.shape == observed.magnitudes.shape == (STEPS - 1, 2)
    assert len(observed.recording.timesteps) == STEPS
    assert observed.evaluations == (STEPS * (tiny.branches if guided else 1), STEPS - 1)


@pytest.mark.parametrize("setup", SETUPS)
def test_the_extra_evaluation_is_the_network_at_new_latent_and_old_timestep(setup: str) -> None:
    """Made again from outside, with the very arguments that the pipeline gave.

    Tokens of an image stay at timestep 0; some schedules end at 0 altogether.
    """
    tiny = SETUPS[setup]()
    calls: list[dict[str, Any]] = []
    transformer = tiny.pipe.transformer
    handle = transformer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True
    )
    tiny()
    handle.remove()
    calls = calls[:: tiny.branches]
    own = slice(None) if tiny.branches == 2 else slice(1, None)
    alphas = probe(tiny.pipe, tiny).alphas
    channels = transformer.config.out_channels or transformer.config.in_channels
    axis = architecture_of(transformer).channel_axis

    def output(call: dict[str, Any], timestep: torch.Tensor) -> torch.Tensor:
        return transformer(**{**call, "timestep": timestep})[0][own]

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return size(a.double() - b.double()).item()

    with torch.no_grad():
        for k, (before, now) in enumerate(pairwise(calls)):
            old, new = before["timestep"], now["timestep"]
            latents = [call["hidden_states"].narrow(axis, 0, channels)[own] for call in (now, before)]
            crossed = output(now, old)
            along_x = distance(crossed, output(before, old)) / distance(*latents)
            along_t = distance(output(now, new), crossed) / (old.max() - new.max()).abs().item()
            assert alphas[k] == pytest.approx([along_x, along_t], rel=1e-3), k


def test_a_scheduler_that_repeats_timesteps_cannot_be_calibrated() -> None:
    tiny = pipelines.wan(FlowMatchHeunDiscreteScheduler())
    with pytest.raises(SencacheError, match="distinct"):
        probe(tiny.pipe, tiny)


def test_one_step_is_too_few(tiny: Tiny) -> None:
    with pytest.raises(SencacheError, match="at least two steps"):
        probe(tiny.pipe, lambda: tiny(steps=1))


# --- MagCache's ratios, as diffusers measures them -------------------------------------------------


def printed_ratios(tiny: Tiny, capsys: pytest.CaptureFixture[str], **changes: Any) -> list[list[float]]:
    """One list per context, in the order of the calls."""
    tiny.pipe.transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=STEPS))
    capsys.readouterr()
    tiny(**changes)
    tiny.pipe.transformer.disable_cache()
    lines = capsys.readouterr().out.splitlines()
    return [ast.literal_eval(line) for line in lines if line.startswith("[1.0")]


@pytest.mark.parametrize("guided", [True, False])
def test_ratios_are_those_of_diffusers(tiny: Tiny, guided: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """On Wan those of the conditional calls.

    Where guidance doubles the batch diffusers averages both halves, and we take the prompt's: equal when both
    have the same prompt.
    """
    changes: dict[str, Any] = {} if guided else {"guidance_scale": 1.0}
    if guided and tiny.branches == 1:
        changes["negative_prompt_embeds"] = tiny.arguments(1)["prompt_embeds"]
    ours = magnitude_ratios([probe(tiny.pipe, lambda: tiny(**changes))]).ratios
    printed = printed_ratios(tiny, capsys, **changes)
    assert len(printed) == (tiny.branches if guided else 1)
    assert ours == pytest.approx(printed[0], abs=1e-5)
    assert max(ours) - min(ours) > 1e-3
