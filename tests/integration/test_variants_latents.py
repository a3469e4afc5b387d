"""Distances are those of the latents alone, and of a batch's worst sample."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pipelines
import pytest
import torch
from measuring import TARGETS, check_distances, distances, own_rms, under
from pipelines import METHODS, STEPS, Tiny

# --- What the distance is measured on -------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"batch": 2}, {"guidance_scale": 1.0}], ids=str)
def test_the_distance_is_that_of_the_latents(tiny: Tiny, changes: dict[str, Any]) -> None:
    """Per element of one sample, of the sample that moved most: both from the last computed step."""
    policy = replace(pipelines.lively(tiny.name)["sencache"], max_reuses=9)
    records, latents = distances(tiny, policy, **changes)
    assert {record.decision for record in records} == {"compute", "reuse"}
    check_distances(records, latents)


def in_one_buffer() -> Any:
    """A callback that keeps every latent in the same memory, and nudges it."""
    buffer: list[torch.Tensor] = []

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if not buffer:
            buffer.append(tensors["latents"].clone())
        buffer[0].copy_(tensors["latents"]).mul_(1.01)
        return {"latents": buffer[0]}

    return callback


def test_a_callback_may_write_over_the_latents(tiny: Tiny) -> None:
    """The distance is to the latent as it was at the last computed step, not to what became of its memory."""
    policy = replace(pipelines.lively(tiny.name)["sencache"], max_reuses=9)
    check_distances(*distances(tiny, policy, callback_on_step_end=in_one_buffer()))
    for target in TARGETS:
        exact = replace(pipelines.exact(tiny.name)["sencache"], target=target)
        latents, _ = under(tiny, exact, callback_on_step_end=in_one_buffer())
        assert torch.equal(latents, tiny(callback_on_step_end=in_one_buffer()))


@pytest.mark.parametrize("name", pipelines.FROM_IMAGE)
def test_from_an_image_at_tolerance_zero(name: str) -> None:
    tiny = pipelines.FROM_IMAGE[name]()
    plain = tiny()
    exact = pipelines.exact(name)
    targets = (replace(exact["sencache"], target=target) for target in TARGETS)
    for policy in (*targets, *(exact[method] for method in METHODS if method != "sencache")):
        latents, trace = under(tiny, policy)
        assert torch.equal(latents, plain) and trace.nfe == STEPS, policy


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
@pytest.mark.parametrize("method", ["sencache", "easycache"])
def test_the_condition_is_not_part_of_the_latent(name: str, method: str) -> None:
    """Noise on the condition's channels, new at every step: the network sees it, the distance does not."""
    tiny = pipelines.FROM_IMAGE[name]()
    axis, channels = {"wan": (1, 16), "cogvideox": (2, 4)}[name]
    noise = torch.Generator().manual_seed(0)
    inputs: list[torch.Tensor] = []

    def disturb(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden = kwargs["hidden_states"].clone()
        condition = hidden.narrow(axis, channels, hidden.shape[axis] - channels)
        condition += 100 * torch.randn(condition.shape, generator=noise)
        inputs.append(hidden.narrow(axis, 0, channels))
        return args, {**kwargs, "hidden_states": hidden}

    tiny.pipe.transformer.register_forward_pre_hook(disturb, with_kwargs=True)
    _, trace = under(tiny, pipelines.exact(name)[method])
    per_step = inputs[:: tiny.branches]
    for (before, now), record in zip(pairwise(per_step), trace.records[1:], strict=True):
        if method == "sencache":
            assert record.signals["dx_rms"] == pytest.approx(own_rms(now - before).max().item(), rel=1e-4)
        elif record.signals:
            moved = (now - before).abs().mean().item()
            assert record.signals["input_change"] == pytest.approx(moved, rel=1e-4)
    assert any(record.signals for record in trace)


# --- Batches --------------------------------------------------------------------------------------


def sample(tiny: Tiny, which: slice) -> dict[str, Any]:
    """Of two prompts with noise of their own, those in `which`."""
    arguments = tiny.arguments(2)
    shape = {"wan": (2, 16, 3, 2, 2), "cogvideox": (2, 2, 4, 2, 2), "ltx": (2, 8, 8)}[tiny.name]
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    latents[1] *= 3
    both = {"latents": latents, **arguments}
    return {name: value[which] if isinstance(value, torch.Tensor) else value for name, value in both.items()}


@pytest.mark.parametrize(("method", "guided"), [("sencache", True), ("easycache", False), ("control", True)])
def test_a_batch_scores_as_its_worst_sample(tiny: Tiny, method: str, guided: bool) -> None:
    """At tolerance 0 all runs stay together, so that scores can be compared step by step."""
    policy = pipelines.exact(tiny.name)[method]
    changes = {} if guided else {"guidance_scale": 1.0}

    def scores(which: slice) -> list[float]:
        _, trace = under(tiny, policy, **sample(tiny, which), **changes)
        return [record.score for record in trace if record.score is not None]

    first, second, both = scores(slice(0, 1)), scores(slice(1, 2)), scores(slice(None))
    assert len(both) >= STEPS - 4
    assert both == pytest.approx([max(pair) for pair in zip(first, second, strict=True)], rel=1e-3)
    assert max(abs(a - b) / b for a, b in zip(first, second, strict=True)) > 0.05
