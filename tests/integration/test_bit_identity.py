"""A cache that never reuses changes nothing, and one that reuses does exactly what its formula says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pipelines
import pytest
import torch
from pipelines import CROSSED, FORECASTS, TARGETS, Tiny

from sencache.engine.attach import attach
from sencache.models.model import Model
from sencache.policies import Fixed, Full, Policy, SenCache
from sencache.profiles.profile import Profile
from sencache.schema import Request

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unguided": {"guidance_scale": 1.0},
    "two-prompts": {"batch": 2},
    "two-prompts-unguided": {"batch": 2, "guidance_scale": 1.0},
}


@cache
def plain(name: str) -> torch.Tensor:
    """What the pipeline makes by itself."""
    return pipelines.ALL[name]()()


def under(tiny: Tiny, policy: Policy, **changes: Any) -> tuple[torch.Tensor, Any]:
    with attach(tiny.pipe, policy) as trace:
        latents = tiny(**changes)
    return latents, trace


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_reused_is_the_plain_pipeline(tiny: Tiny, variant: str) -> None:
    plain = tiny(**VARIANTS[variant])
    for policy in (Full(), pipelines.exact(tiny.name)["sencache"]):
        latents, trace = under(tiny, policy, **VARIANTS[variant])
        assert trace.nfe == len(trace) == pipelines.STEPS
        assert torch.equal(latents, plain)


@pytest.mark.parametrize(("name", "method", "target", "forecast"), CROSSED)
def test_tolerance_zero_is_the_plain_pipeline(name: str, method: str, target: Any, forecast: Any) -> None:
    tiny = pipelines.ALL[name]()
    policy = replace(pipelines.exact(tiny.name)[method], target=target, forecast=forecast)
    latents, trace = under(tiny, policy)
    assert trace.nfe == pipelines.STEPS
    assert torch.equal(latents, plain(tiny.name))


def test_tolerance_zero_in_half_precision(tiny: Tiny) -> None:
    target: Any = {"wan": "residual", "cogvideox": "output", "ltx": "delta"}[tiny.name]
    tiny.pipe.transformer.to(torch.bfloat16)
    embeds = {
        name: value.bfloat16()
        for name, value in tiny.arguments(1).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    latents, trace = under(tiny, replace(pipelines.exact(tiny.name)["sencache"], target=target), **embeds)
    assert trace.nfe == pipelines.STEPS
    assert torch.equal(latents, tiny(**embeds))


def test_tolerance_zero_with_the_bundled_model(tiny_wan: Model, bundled_profile: Profile) -> None:
    request = Request(
        prompt="a red circle moving right", steps=8, height=64, width=64, frames=17, guidance_scale=4
    )
    encoded = tiny_wan.encode(request.prompt, "", request.guidance_scale)

    def generate() -> torch.Tensor:
        return tiny_wan.latent(tiny_wan.pipe, encoded, request)

    with attach(tiny_wan.pipe, SenCache(bundled_profile, tolerance=0, early_tolerance=0)) as trace:
        cached = generate()
    assert trace.nfe == request.steps
    assert torch.equal(cached, generate())


class Restated:
    """Caching by the formulas, without any of the engine: wraps `forward` of transformers and blocks.

    What is kept belongs to one transformer and one branch; the branch is the place of the call in its step.
    """

    def __init__(self, tiny: Tiny, computed: tuple[int, ...], target: str, forecast: str) -> None:
        self.tiny, self.computed, self.target = tiny, computed, target
        self.depth = 2 if forecast == "linear" else 1
        self.calls = 0
        self.kept: dict[tuple[str, int], list[tuple[float, torch.Tensor]]] = {}
        self.plain: dict[Any, Callable[..., Any]] = {}

    def __enter__(self) -> Restated:
        for name in ("transformer", "transformer_2"):
            transformer = getattr(self.tiny.pipe, name, None)
            if transformer is not None:
                self.replace(transformer, self.forward(name, transformer.forward))
                blocks = list(transformer.get_submodule(pipelines.BLOCKS[self.tiny.name]))
                for block in blocks:
                    place = block is blocks[0], block is blocks[-1]
                    self.replace(block, self.block(name, *place, block.forward))
        return self

    def replace(self, module: torch.nn.Module, forward: Callable[..., Any]) -> None:
        self.plain[module] = module.forward
        module.forward = forward

    def __exit__(self, *_: object) -> None:
        for module in self.plain:
            del module.forward

    def forward(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.step, branch = divmod(self.calls, self.tiny.branches)
            self.calls += 1
            self.place = name, branch
            self.timestep = float(self.tiny.pipe.scheduler.timesteps[self.step])
            output = plain(*args, **kwargs)[0]
            if self.target == "residual":
                return (output,)
            shift = kwargs["hidden_states"] if self.target == "delta" else torch.zeros(())
            if self.step not in self.computed:
                return (shift + self.expected(),)
            self.keep(output - shift)
            return (output,)

        return forward

    def block(self, name: str, first: bool, last: bool, plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if first:
                self.entered = hidden_states
            if self.step not in self.computed and self.target == "residual":
                hidden = self.entered + self.expected() if last else hidden_states
                return (hidden, kwargs["encoder_hidden_states"]) if self.tiny.name == "cogvideox" else hidden
            out = plain(hidden_states, *args, **kwargs)
            if last and self.target == "residual":
                self.keep((out[0] if isinstance(out, tuple) else out) - self.entered)
            return out

        return forward

    def keep(self, value: torch.Tensor) -> None:
        self.kept[self.place] = [*self.kept.get(self.place, []), (self.timestep, value)][-self.depth :]

    def expected(self) -> torch.Tensor:
        """The straight line through the last two computed values, at this timestep; or the only one."""
        (t_b, v_b), *older = reversed(self.kept[self.place])
        if not older:
            return v_b
        t_a, v_a = older[0]
        return v_b + (self.timestep - t_b) * (v_b - v_a) / (t_b - t_a)


def check_against_the_formulas(tiny: Tiny, computed: tuple[int, ...], target: Any) -> None:
    made = {}
    for forecast in FORECASTS:
        latents, trace = under(tiny, Fixed(steps=computed, target=target, forecast=forecast))
        with Restated(tiny, computed, target, forecast):
            restated = tiny()
        assert trace.nfe == len(computed)
        # A line is summed in another order.
        rounding = 0 if forecast == "hold" else 1e-4
        torch.testing.assert_close(latents, restated, rtol=rounding, atol=rounding)
        made[forecast] = latents
    assert not torch.allclose(made["hold"], tiny(), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(made["hold"], made["linear"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", TARGETS)
def test_reuse_is_what_the_formulas_say(tiny: Tiny, target: Any) -> None:
    """Steps 1 and 2 hold the only value there is, 5 to 7 and 10 to 11 follow two computed steps each."""
    check_against_the_formulas(tiny, (0, 3, 4, 8, 9), target)


@pytest.mark.parametrize("target", TARGETS)
def test_reuse_with_two_experts_is_what_the_formulas_say(target: Any) -> None:
    """The second one takes over at step 4 and has nothing of the first one's to reuse."""
    check_against_the_formulas(pipelines.wan(two=True), (0, 2, 4, 7, 9), target)
