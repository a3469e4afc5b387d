"""Guidance set, taken away or changed, between runs and in the middle of one."""

from __future__ import annotations

from typing import Any

import pipelines
import pytest
import torch
from measuring import check_distances, distances, under
from pipelines import METHODS, STEPS, Tiny

from sencache.engine.attach import attach


def switching(step: int, scale: float) -> Any:
    def callback(pipe: Any, index: int, *_: Any) -> dict[str, Any]:
        if index == step:
            pipe._guidance_scale = scale
        return {}

    return callback


@pytest.mark.parametrize("method", ["sencache", "easycache"])
def test_guidance_on_off_and_on_again_between_runs(tiny: Tiny, method: str) -> None:
    policy = pipelines.lively(tiny.name)[method]
    fresh = {scale: under(pipelines.ALL[tiny.name](), policy, guidance_scale=scale) for scale in (1.0, 5.0)}
    with attach(tiny.pipe, policy) as trace:
        for scale in (5.0, 1.0, 5.0):
            latents, expected = fresh[scale]
            assert torch.equal(tiny(guidance_scale=scale), latents)
            assert trace.records == expected.records
            assert trace.transformer_calls == expected.transformer_calls


@pytest.mark.parametrize(("start", "end"), [(5.0, 1.0), (1.0, 5.0), (5.0, 2.0)])
@pytest.mark.parametrize("method", ["fixed", "teacache", "control"])
def test_wan_with_guidance_changed_in_mid_run(method: str, start: float, end: float) -> None:
    tiny = pipelines.wan()
    changes = {"guidance_scale": start, "callback_on_step_end": switching(4, end)}
    latents, trace = under(tiny, pipelines.exact("wan")[method], **changes)
    assert torch.equal(latents, tiny(**changes))
    assert trace.transformer_calls == sum(2 if (start if i < 5 else end) > 1 else 1 for i in range(STEPS))
    _, trace = under(tiny, pipelines.lively("wan")[method], **changes)
    assert trace.transformer_calls == sum(
        2 if (start if record.step < 5 else end) > 1 else 1
        for record in trace
        if record.decision == "compute"
    )
    if start == 1:
        # Nothing is cached of the branch that begins here.
        assert (trace.records[5].decision, trace.records[5].reason) == ("compute", "no_cache")


@pytest.mark.parametrize("method", METHODS)
def test_cogvideox_with_guidance_set_to_1_in_mid_run(method: str) -> None:
    tiny = pipelines.cogvideox()
    changes = {"callback_on_step_end": switching(4, 1.0)}
    latents, trace = under(tiny, pipelines.exact("cogvideox")[method], **changes)
    assert torch.equal(latents, tiny(**changes))
    assert trace.nfe == STEPS


def test_cogvideox_with_dynamic_guidance() -> None:
    """An option of the pipeline itself; its cosine passes through a scale of exactly 1."""
    tiny = pipelines.cogvideox()
    scales: list[float] = []

    def callback(pipe: Any, *_: Any) -> dict[str, Any]:
        scales.append(pipe.guidance_scale)
        return {}

    changes = {"steps": 20, "use_dynamic_cfg": True}
    exact = pipelines.exact("cogvideox")["sencache"]
    latents, _ = under(tiny, exact, callback_on_step_end=callback, **changes)
    assert 1.0 in scales[:-1] and max(scales) > 1
    assert torch.equal(latents, tiny(**changes))


def test_cogvideox_with_guidance_raised_in_mid_run() -> None:
    """A batch of two that was never doubled: both its halves count."""
    tiny = pipelines.cogvideox()
    changes = {"batch": 2, "guidance_scale": 1.0, "callback_on_step_end": switching(4, 6.0)}
    check_distances(*distances(tiny, pipelines.exact("cogvideox")["sencache"], **changes))
