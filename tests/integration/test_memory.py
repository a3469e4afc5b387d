"""What a cache takes, from shapes and by a census of the tensors alive; and that all of it is given back."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import pipelines
import pytest
import torch
from diffusers import CogVideoXDPMScheduler
from pipelines import CROSSED, STEPS, Tiny

from sencache.calibration.samples import probe
from sencache.comparison.compare import compare
from sencache.comparison.lanes import lane
from sencache.comparison.plan import parse_lanes
from sencache.engine.attach import attach
from sencache.models.checkpoint import describe_folder
from sencache.models.model import ASSETS, load
from sencache.models.placement import Work
from sencache.policies import Fixed, Full, Policy
from sencache.schema import Request

FLOAT = 4

# Of one sample: what the network is given, what its blocks pass on, what TeaCache looks at.
SHAPES = {
    "wan": {"latent": (16, 3, 2, 2), "hidden": (3, 24), "signal": (6, 24)},
    "cogvideox": {"latent": (2, 4, 2, 2), "hidden": (2, 32), "signal": (2,)},
    "ltx": {"latent": (8, 8), "hidden": (8, 32), "signal": (8, 32)},
}


def expected_bytes(tiny: Tiny, policy: Policy, batch: int = 1, guided: bool = True) -> int:
    """Bytes: one value per branch, two with a line to draw, and what the method itself looks back at."""
    latent, hidden, signal = (batch * FLOAT * prod(shape) for shape in SHAPES[tiny.name].values())
    branches = 2 if tiny.name == "wan" and guided else 1
    doubled = 2 if tiny.name != "wan" and guided else 1
    value = doubled * (hidden if policy.target == "residual" else latent)
    own = {"sencache": latent, "teacache": doubled * signal, "easycache": 2 * latent + doubled * latent}
    if policy.name == "easycache" and policy.target == "output":
        # The newest output is in the cache already.
        own["easycache"] -= doubled * latent
    return branches * (2 if policy.forecast == "linear" else 1) * value + own.get(policy.name, 0)


@pytest.mark.parametrize(("name", "method", "target", "forecast"), CROSSED)
def test_the_trace_tells_the_size_of_the_cache(name: str, method: str, target: Any, forecast: Any) -> None:
    tiny = pipelines.ALL[name]()
    policy = replace(pipelines.lively(tiny.name)[method], target=target, forecast=forecast)
    with attach(tiny.pipe, policy) as trace:
        tiny(steps=6)
        assert trace.cache_bytes == expected_bytes(tiny, policy)


@pytest.mark.parametrize("method", ["fixed", "sencache", "teacache", "easycache"])
def test_the_cache_grows_with_the_batch_and_not_with_guidance_off(tiny: Tiny, method: str) -> None:
    policy = pipelines.lively(tiny.name)[method]
    with attach(tiny.pipe, policy) as trace:
        tiny(batch=3)
        assert trace.cache_bytes == expected_bytes(tiny, policy, batch=3)
        tiny(guidance_scale=1.0)
        assert trace.cache_bytes == expected_bytes(tiny, policy, guided=False)


# --- The census -----------------------------------------------------------------------------------


def live_bytes() -> int:
    """Bytes of all tensors made since the census was opened and still there, storages counted once."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@contextlib.contextmanager
def census_window() -> Iterator[None]:
    """Leave out what is there already, and let reference counts alone free the rest.

    What a cycle holds until the garbage collector comes, a GPU goes on holding as well.
    """
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def census(tiny: Tiny) -> list[int]:
    """Bytes alive after every step of a run."""
    counts: list[int] = []

    def callback(*_: Any) -> dict[str, Any]:
        counts.append(live_bytes())
        return {}

    tiny(callback_on_step_end=callback)
    return counts


@pytest.mark.parametrize("method", ["none", "sencache", "teacache", "easycache", "control"])
def test_no_more_is_alive_than_the_trace_tells(tiny: Tiny, method: str) -> None:
    """But for the step's first output, which the pipeline itself still holds except on Wan.

    And nothing from the last step's callback on, before the pipeline decodes.
    """
    policies = {"none": Full(), **pipelines.lively(tiny.name)}
    policy = replace(policies[method], forecast="linear")
    with census_window():
        plain = census(tiny)
    with census_window(), attach(tiny.pipe, policy) as trace:
        cached = census(tiny)
    extra = [a - b for a, b in zip(cached, plain, strict=True)]
    output = 2 * FLOAT * prod(SHAPES[tiny.name]["latent"])
    scalars = 64
    assert trace.cache_bytes - output <= max(extra) <= trace.cache_bytes + output + scalars
    assert extra[-1] == 0 and (method != "none" or trace.cache_bytes == 0)


# ---- replay


def cogvideox_dpm() -> Tiny:
    return pipelines.cogvideox(CogVideoXDPMScheduler(prediction_type="v_prediction"))


# And how many tensors like a latent each sampler remembers from step to step.
REPLAYED = {"unipc": (pipelines.wan, 3), "ddim": (pipelines.cogvideox, 0)}
REPLAYED |= {"euler": (pipelines.ltx, 0), "dpm": (cogvideox_dpm, 1)}


def gap_of(reuses: int, forecast: str = "hold") -> Fixed:
    """Five steps computed, then so many reused in a row, then the others computed."""
    computed = (0, 1, 2, 3, 4, *range(5 + reuses, STEPS))
    ways = {"target": "prediction", "forecast": forecast, "repair": "replay"}
    return Fixed(steps=computed, forced_first=1, **ways)


@pytest.mark.parametrize(("forecast", "nodes"), [("hold", 1), ("linear", 2), ("taylor", 3)])
@pytest.mark.parametrize("sampler", REPLAYED)
def test_replay_keeps_the_predictions_a_latent_and_what_the_sampler_knows(
    sampler: str, forecast: str, nodes: int
) -> None:
    make, own = REPLAYED[sampler]
    tiny = make()
    latent = FLOAT * prod(SHAPES[tiny.name]["latent"])
    for reuses in (1, 6):
        with attach(tiny.pipe, gap_of(reuses, forecast)) as trace:
            tiny()
            assert trace.cache_bytes == (nodes + 1 + own) * latent


@pytest.mark.parametrize("sampler", REPLAYED)
def test_nothing_more_is_alive_the_longer_a_gap_gets(sampler: str) -> None:
    """But for the state of the pipeline's generator, where its sampler may draw from it."""
    tiny = REPLAYED[sampler][0]()
    state = torch.Generator().get_state().nbytes
    with census_window(), attach(tiny.pipe, gap_of(6)):
        alive = census(tiny)
    growth = {b - a for a, b in pairwise(alive[7:11])}
    assert growth <= {0, state}


def test_what_a_pipeline_writes_is_kept_of_every_step_and_told() -> None:
    """Of LTX the latent with its image, which is another tensor at every step."""
    tiny = pipelines.ltx_image()
    told = []
    for reuses in (2, 6):
        with census_window(), attach(tiny.pipe, gap_of(reuses)) as trace:
            alive = census(tiny)
        told.append(trace.cache_bytes)
    assert told[1] - told[0] == 4 * (alive[10] - alive[9]) > 0


def fail(tiny: Tiny) -> None:
    def callback(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        if step == 5:
            raise InterruptedError
        return {}

    with contextlib.suppress(InterruptedError):
        tiny(callback_on_step_end=callback)


def fail_inside(tiny: Tiny) -> None:
    """In the fifth step, past the blocks, where the network comes whether they run or not."""
    calls: list[int] = []

    def hook(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 5 * tiny.branches:
            raise InterruptedError

    handle = tiny.pipe.transformer.proj_out.register_forward_pre_hook(hook)
    with contextlib.suppress(InterruptedError):
        tiny()
    handle.remove()


def bytes_left_by(act: Callable[[], object]) -> int:
    """Bytes that `act` has made and that are still there."""
    with census_window():
        act()
        return live_bytes()


def run(tiny: Tiny) -> None:
    tiny()


@pytest.mark.parametrize("ending", [run, fail_inside])
@pytest.mark.parametrize("method", ["none", "teacache", "easycache"])
def test_within_the_block_nothing_outlives_the_run(
    tiny: Tiny, method: str, ending: Callable[[Tiny], None]
) -> None:
    """No more, that is, than after the same run without a cache."""
    policies = {"none": Full(), **pipelines.lively(tiny.name)}
    plain = bytes_left_by(lambda: ending(tiny))
    with attach(tiny.pipe, replace(policies[method], forecast="linear")):
        assert bytes_left_by(lambda: ending(tiny)) == plain


@pytest.mark.parametrize("ending", [run, fail_inside, fail])
def test_nothing_outlives_the_attachment(tiny: Tiny, ending: Callable[[Tiny], None]) -> None:
    policy = replace(pipelines.lively(tiny.name)["easycache"], forecast="linear")

    def attached() -> None:
        with attach(tiny.pipe, policy):
            ending(tiny)

    plain = bytes_left_by(lambda: ending(tiny))
    assert bytes_left_by(attached) == plain


@pytest.mark.parametrize("taken", [4, STEPS + 1])
def test_nothing_outlives_a_lane(tiny: Tiny, taken: int) -> None:
    policy = replace(pipelines.lively(tiny.name)["easycache"], forecast="linear")

    def generate(pipe: Any, callback: Any) -> Any:
        return replace(tiny, pipe=pipe)(callback_on_step_end=callback).numpy()

    def partly() -> None:
        stepwise = lane(tiny.pipe, policy, generate, torch.device("cpu"))
        for _ in range(taken):
            next(stepwise)
        stepwise.close()

    assert bytes_left_by(partly) == 0


@pytest.mark.parametrize("key", ["tiny-wan", "tiny-ltx"])
def test_no_more_is_held_while_a_lane_decodes_than_is_planned(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the full run, of whose record no tensor is left; then fewer steps, while the others are under way
    with all that they keep: here two and four residuals a lane, or on one branch one and two.
    """
    model = load(key)
    request = Request(prompt="a", steps=12, nfe=6, height=64, width=64, frames=17, guidance_scale=4.0)
    spec = describe_folder(ASSETS / key, key)
    # Its latents have a token for 16 pixels.
    spec = replace(spec, steps=12, height=64, width=64, frames=17, size_multiple=16)
    planned, held, decode = Work.of(spec, "float32", lanes=2), list[int](), model.pipe.vae.decode
    monkeypatch.setattr(
        model.pipe.vae, "decode", lambda *a, **k: (held.append(live_bytes()), decode(*a, **k))[1]
    )
    lanes = parse_lanes("fewer-steps,fixed:interval=2,control")
    with census_window():
        for _ in compare(model, request, lanes):
            if len(held) == 2:
                break
    prompt_and_schedule = 150_000
    assert held[0] <= planned.latents + prompt_and_schedule < planned.recorder
    assert planned.lanes / 2 < held[1] <= planned.latents + planned.lanes + prompt_and_schedule


def test_a_calibration_leaves_its_recording_and_nothing_else(tiny: Tiny) -> None:
    def calibrated() -> None:
        probe(tiny.pipe, tiny)

    assert bytes_left_by(calibrated) == bytes_left_by(tiny)
