"""The examples of docs/extending.md, run: what is registered from outside works everywhere."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from diffusers import AllegroPipeline, AllegroTransformer3DModel, DPMSolverMultistepScheduler
from diffusers.hooks import SeaCacheConfig

import sencache
from sencache.app.offer import describe
from sencache.app.palette import colour_variables, lane_label, looks
from sencache.architectures import ARCHITECTURES
from sencache.calibration.budget import match_nfe
from sencache.calibration.recording import Recorder, simulate
from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.forecasts import FORECASTS
from sencache.policies import METHODS, Fixed, Full, Policy, make_policy
from sencache.policies.seacache import SeaCache
from sencache.policies.targets import TARGETS
from sencache.repair import REPAIRS

GUIDE = Path(__file__).parents[2] / "docs" / "extending.md"
REGISTRIES: tuple[Any, ...] = (METHODS, TARGETS, FORECASTS, REPAIRS, ARCHITECTURES)
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def guide() -> Iterator[dict[str, Any]]:
    """The names that the guide's code defines, in a module of its own."""
    module = types.ModuleType("the_guide")
    sys.modules["the_guide"] = module
    before = [dict(registry) for registry in REGISTRIES]
    exec("\n".join(BLOCKS), module.__dict__)
    yield module.__dict__
    for registry, kept in zip(REGISTRIES, before, strict=True):
        for name in set(registry) - set(kept):
            del registry[name]
    del sys.modules["the_guide"]


def test_each_example_has_fewer_than_60_lines() -> None:
    assert len(BLOCKS) == 7 and max(len(block.splitlines()) for block in BLOCKS) < 60


def test_a_method_from_outside_runs_and_meets_a_budget(guide: dict[str, Any]) -> None:
    tiny, policy = pipelines.wan(), guide["policy"]
    recorder = Recorder(None, {(sense, policy.target) for sense in policy.senses})
    with attach(tiny.pipe, Full(), observer=recorder):
        tiny()
    found = match_nfe(policy, [recorder.recording()], 6)
    assert simulate(found, recorder.recording()).nfe == 6
    with attach(tiny.pipe, found) as trace:
        latents = tiny()
    assert 1 < trace.nfe < len(trace) and latents.isfinite().all()
    with attach(tiny.pipe, replace(policy, threshold=0)) as trace:
        assert torch.equal(tiny(), pipelines.wan()())
    assert trace.nfe == len(trace)


def test_it_is_offered_named_and_coloured() -> None:
    (entry,) = [method for method in describe()["methods"] if method["method"] == "nearby"]
    assert (entry["label"], entry["knob"]) == ("Nearby", "threshold")
    choices = {setting["name"]: setting["choices"] for setting in entry["settings"]}
    assert {"hold", "linear", "taylor", "stepwise"} <= set(choices["forecast"])
    assert {"residual", "tail", "half-output"} <= set(choices["target"])
    assert lane_label("nearby:forecast=stepwise") == "Nearby, stepwise"
    assert f"--method-nearby:{looks()['nearby'].light};" in colour_variables()


def test_a_sense_from_outside_measures_what_was_recorded(guide: dict[str, Any]) -> None:
    tiny, sense = pipelines.wan(), guide["CoarseChange"]

    class Coarse(guide["Nearby"]):  # type: ignore[misc]
        senses = (sense,)

        def _rule(self, schedule: Any) -> Any:
            rule = super()._rule(schedule)
            judge = rule.judge
            rule.judge = lambda step, signals: judge(step, {"dx_rms": signals["coarse_change"]})
            return rule

    policy = Coarse(threshold=0)
    recorder = Recorder(None, {(sense, policy.target)})
    with attach(tiny.pipe, Full(), observer=recorder):
        tiny()
    with attach(tiny.pipe, policy) as trace:
        tiny()
    live, simulated = trace.records, simulate(policy, recorder.recording()).records
    assert [record.reason for record in live] == [record.reason for record in simulated]
    scores = [[record.score for record in run if record.score is not None] for run in (live, simulated)]
    assert len(scores[0]) == len(trace) - 1 and scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_an_architecture_from_outside_is_attached_bit_for_bit() -> None:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 24, "cross_attention_dim": 48}
    shape = {"caption_channels": 32, "sample_height": 4, "sample_width": 4, "sample_frames": 2}
    transformer = AllegroTransformer3DModel(num_layers=3, **sizes, **shape).eval()
    parts = {"tokenizer": None, "text_encoder": None, "vae": None}
    pipe = AllegroPipeline(**parts, transformer=transformer, scheduler=DPMSolverMultistepScheduler())
    pipe.set_progress_bar_config(disable=True)

    def latents() -> torch.Tensor:
        made: torch.Tensor = pipe(
            prompt_embeds=torch.ones(1, 7, 32),
            negative_prompt_embeds=torch.zeros(1, 7, 32),
            negative_prompt=None,
            prompt_attention_mask=torch.ones(1, 7, dtype=torch.long),
            negative_prompt_attention_mask=torch.ones(1, 7, dtype=torch.long),
            **{"height": 32, "width": 32, "num_frames": 8, "num_inference_steps": 6},
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).frames
        return made

    plain = latents()
    with attach(pipe, Fixed(interval=1)):
        assert torch.equal(latents(), plain)
    with attach(pipe, Fixed(interval=3)) as trace:
        reused = latents()
    assert trace.nfe == 2 and not torch.equal(reused, plain) and reused.isfinite().all()


@pytest.mark.parametrize("threshold", [0.25, 1.0])
def test_extrapolated_over_steps_seacache_is_that_of_diffusers(threshold: float) -> None:
    """Its default `residual_order` of 1; the sum is formed in another order, so to rounding."""
    tiny = pipelines.wan()
    with attach(tiny.pipe, SeaCache(threshold=threshold, forecast="stepwise")) as trace:
        latents = tiny()
    assert 2 < trace.nfe < len(trace)
    tiny.pipe.transformer.enable_cache(SeaCacheConfig(threshold=threshold))
    torch.testing.assert_close(latents, tiny(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_policy("nearby", {"forecast": "cubic"}),
            "nearby.forecast is 'cubic' (choose from h",
        ),
        (lambda: make_policy("nearby", {"target": "pixels"}), "nearby.target is 'pixels' (choose from resid"),
        (lambda: make_policy("farther", {}), "unknown method 'farther'; choose from none"),
        (lambda: sencache.register(int), "<class 'int'> is no Policy, Forecast, Target or Repair"),
        (lambda: sencache.register(type("X", (Policy,), {"name": "x"})), "the method 'x' is no dataclass"),
    ],
)
def test_what_is_unknown_is_refused_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(SencacheError) as refusal:
        make()
    assert str(refusal.value).startswith(message)


def test_a_repair_from_outside_is_taken(guide: dict[str, Any]) -> None:
    tiny = pipelines.wan()
    policy = Fixed(steps=(0, 1, 3, 4, 8, 11), target="prediction", repair="replay-long")
    with attach(tiny.pipe, policy) as trace:
        tiny()
    assert [record.step for record in trace if record.correction is not None] == [8, 11]
