"""Where parts are kept: whatever is free, the choice fits, and more memory never makes it worse."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sencache.errors import SencacheError
from sencache.models import placement as memory
from sencache.models.catalogue import MODELS
from sencache.models.placement import Placement, Weights, Work, gigabytes, placements, plan_placement, tokens
from sencache.models.spec import ModelSpec
from sencache.policies.tables import SPAN

PLENTY = 10**15
BIG = [spec for spec in MODELS.values() if spec.parameters]

sizes = st.integers(0, 200 * 10**9)


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    more = draw(st.sets(st.sampled_from(["transformer_2", "image_encoder"])))
    parts = {name: draw(sizes) for name in ("text_encoder", "transformer", "vae", *more)}
    transformers = parts["transformer"] + parts.get("transformer_2", 0)
    blocks = draw(st.integers(0, transformers))
    return Weights(parts, blocks, draw(st.integers(0, blocks)))


@st.composite
def work(draw: st.DrawFn) -> Work:
    decode = draw(sizes)
    return Work(*(draw(sizes) for _ in range(4)), decode, draw(st.integers(0, decode)))


def running(work: Work, tiled: bool) -> int:
    """The worst moment: the full run's step on record, a step of all lanes, one that decodes before the rest;
    the full run's latents are there in all of them.
    """
    decode = work.decode_tiled if tiled else work.decode
    moments = (work.step + work.recorder, work.step + work.lanes, decode + work.lanes)
    return work.latents + max(moments)


def peak(weights: Weights, work: Work, placement: Placement) -> int:
    """The most on the GPU: what is there while the prompt is encoded, and while the video is made."""
    text = weights.parts["text_encoder"]
    experts = weights.parts["transformer"] + weights.parts.get("transformer_2", 0)
    others = weights.total - text - experts
    encoding = others + text + memory.ENCODE
    making = others + running(work, placement.tiled)
    if placement.transformers in ("blocks", "streamed"):
        trunk, there = experts - weights.blocks, 2 if placement.transformers == "streamed" else 1
        return max(encoding + trunk, making + trunk + there * weights.block) + memory.RESERVE
    if placement.transformers == "device":
        encoding += experts
    making += experts + (text if placement.text_encoder == "device" else 0)
    return max(encoding, making) + memory.RESERVE


@given(weights(), work(), st.integers(0, 400 * 10**9))
def test_the_choice_fits_or_the_numbers_are_given(weights: Weights, work: Work, free: int) -> None:
    least = min(peak(weights, work, each) for each in placements(weights, work))
    if least <= free:
        chosen = plan_placement("x", weights, work, free, PLENTY)
        assert chosen.device_bytes == peak(weights, work, chosen) <= free
        return
    with pytest.raises(SencacheError) as refused:
        plan_placement("x", weights, work, free, PLENTY)
    assert f"at least {gigabytes(least)} of GPU memory" in str(refused.value)
    assert f"{gigabytes(free)} are free" in str(refused.value)


@given(weights(), work(), st.integers(0, 400 * 10**9), st.integers(0, 400 * 10**9))
def test_more_memory_never_makes_it_worse(weights: Weights, work: Work, free: int, more: int) -> None:
    offered = list(placements(weights, work))

    def rank(free: int) -> int:
        try:
            return offered.index(plan_placement("x", weights, work, free, PLENTY))
        except SencacheError:
            return len(offered)

    assert rank(free + more) <= rank(free)


@given(weights(), work(), st.integers(0, 400 * 10**9))
def test_weights_that_do_not_fit_the_ram_are_refused(weights: Weights, work: Work, free: int) -> None:
    if weights.total > free:
        with pytest.raises(SencacheError, match=re.escape(f"{gigabytes(free)} of RAM are free")):
            plan_placement("x", weights, work, PLENTY, free)
    else:
        assert plan_placement("x", weights, work, PLENTY, free).host_bytes <= free


@given(weights(), work(), st.integers(0, 10**12))
def test_without_a_gpu_everything_must_fit_the_ram(weights: Weights, work: Work, free: int) -> None:
    if weights.total + running(work, False) > free:
        with pytest.raises(SencacheError, match="without a GPU"):
            memory.check_ram("x", weights, work, free)
    else:
        memory.check_ram("x", weights, work, free)


@given(weights(), work())
def test_what_waits_is_what_is_kept_in_ram(weights: Weights, work: Work) -> None:
    for placement in placements(weights, work):
        waits = placement.text_encoder == "host"
        assert (placement.host_bytes == 0) or waits
        assert ("text encoder in RAM" in str(placement)) == waits
        assert ("tiles" in str(placement)) == placement.tiled


@pytest.mark.parametrize("spec", BIG, ids=lambda spec: spec.key)
def test_every_model_fits_a_large_card_and_none_a_small_one(spec: ModelSpec) -> None:
    """With a run on record: its changes, the newest value and the one that is being noted; and every step's
    latent and output.
    """
    weights, work = Weights.of(spec), Work.of(spec)
    best = plan_placement(spec.key, weights, work, 141 * 10**9, PLENTY)
    assert str(best) == "all parts on the GPU"
    with pytest.raises(SencacheError, match=f"{spec.key} needs at least"):
        plan_placement(spec.key, weights, work, 4 * 10**9, PLENTY)
    assert memory.RECORDED == SPAN + 2
    size = memory.BYTES[spec.dtype]
    residual, latents = tokens(spec) * spec.inner * size, spec.steps * tokens(spec) * 64 * (4 + size)
    assert work.recorder >= memory.RECORDED * residual + latents


def test_published_figures() -> None:
    """diffusers' documentation of CogVideoX-2b: 19 GB to decode, 33 GB with everything on the GPU. That
    is one plain run, of which no step's latent is kept. methods.md has LTX-Video's tokens and the latents of
    all three.
    """
    spec = MODELS["cogvideox-2b"]
    weights, work = Weights.of(spec), replace(Work.of(spec, lanes=0), latents=0)
    assert (weights.parts["vae"] + work.decode) / 1e9 == pytest.approx(19, abs=0.5)
    assert next(placements(weights, work)).device_bytes / 1e9 == pytest.approx(33, abs=0.5)
    assert tokens(MODELS["ltx"]) == 8064
    assert tokens(MODELS["wan-1.3b"]) == 21 * 30 * 52
    assert tokens(MODELS["cogvideox-2b"]) == 13 * 30 * 45
    # 21 latent frames, padded to 22, two in a patch.
    assert tokens(MODELS["cogvideox1.5-5b"]) == 11 * 48 * 85
