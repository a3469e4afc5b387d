"""From typed text to lanes, and from lanes to policies: every name, every setting, and anything else."""

from __future__ import annotations

import contextlib
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sencache.calibration.recording import Recording
from sencache.comparison.job import make_job
from sencache.comparison.plan import (
    LaneSpec,
    Planned,
    method_names,
    parse_lanes,
    plan_lane,
    with_budget,
)
from sencache.errors import SencacheError
from sencache.models.catalogue import MODELS
from sencache.policies import Control, EasyCache, Fixed, Full, MagCache, SenCache, TeaCache
from sencache.policies.loading import load_profile
from sencache.profiles.library import bundled_profile as bundled_file
from sencache.profiles.profile import Profile
from sencache.schema import Request

NAMES = [
    *("none", "fewer-steps", "fixed", "sencache", "magcache", "teacache", "easycache", "control"),
    *("firstblock", "seacache"),
]
REQUEST = Request(prompt="x", steps=20, height=64, width=64, frames=17, guidance_scale=4.0)
PROFILE = load_profile(bundled_file("tiny-wan.unipc-50"))
KEYS = [
    *("target", "forecast", "tolerance", "early_tolerance", "early_fraction", "max_reuses", "compute_last"),
    *("threshold", "retention", "forced_first", "forced_last", "interval", "steps", "profile", "name"),
]


def summary(lanes: list[LaneSpec]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(lane.name, lane.method, lane.given) for lane in lanes]


# ---- lanes


def test_a_lane_is_named_after_its_method() -> None:
    assert method_names() == NAMES
    assert summary(parse_lanes(",".join(NAMES))) == [(name, name, {}) for name in NAMES]


def test_lanes_that_share_a_method_are_named_as_typed() -> None:
    lanes = parse_lanes(
        "sencache:tolerance=0.2,fixed:interval=3,sencache:tolerance=0.1:forecast=linear,sencache"
    )
    assert summary(lanes)[1:-1] == [
        ("sencache:tolerance=0.2", "sencache", {"tolerance": "0.2"}),
        ("fixed", "fixed", {"interval": "3"}),
        ("sencache:tolerance=0.1:forecast=linear", "sencache", {"tolerance": "0.1", "forecast": "linear"}),
        ("sencache", "sencache", {}),
    ]


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("", ["none", "fewer-steps"]),
        ("control", ["none", "control", "fewer-steps"]),
        ("fewer-steps,control", ["none", "fewer-steps", "control"]),
        ("control,fewer-steps,none,fixed", ["none", "control", "fewer-steps", "fixed"]),
        (" control , fixed ,", ["none", "control", "fixed", "fewer-steps"]),
    ],
)
def test_baselines_are_added_and_the_full_run_comes_first(typed: str, names: list[str]) -> None:
    assert [lane.name for lane in parse_lanes(typed)] == names


def test_step_lists_are_joined_by_plus() -> None:
    assert parse_lanes("fixed:steps=0+3+11")[1].given == {"steps": ("0", "3", "11")}
    assert parse_lanes("fixed", ["fixed.steps=7"])[1].given == {"steps": ("7",)}


def test_overrides_serve_all_lanes_of_a_method_and_give_way_to_the_lane() -> None:
    """Of two overrides the later holds."""
    lanes = parse_lanes(
        "sencache,sencache:tolerance=0.5,control",
        ["sencache.tolerance=9", "sencache.tolerance=0.2", "sencache.max_reuses=1"],
    )
    assert [lane.given for lane in lanes] == [
        {},
        {"tolerance": "0.2", "max_reuses": "1"},
        {"tolerance": "0.5", "max_reuses": "1"},
        {},
        {},
    ]


@pytest.mark.parametrize(
    ("typed", "overrides", "message"),
    [
        ("magic", [], "unknown method 'magic'; choose from none, fewer-steps, fixed, sencache"),
        ("control,control", [], "lane 'control' is given twice; give it once or with other settings"),
        ("fixed:interval=2, fixed:interval=2", [], "lane 'fixed:interval=2' is given twice"),
        (
            "control:tolerance=1:tolerance=2",
            [],
            "lane 'control:tolerance=1:tolerance=2' gives a setting twice",
        ),
        (":interval=2", [], "unknown method ''"),
        ("fixed:", [], "fixed cannot take ''; write key=value with one of: "),
        ("fixed:speed=1", [], "fixed cannot take 'speed=1'"),
        ("fixed:interval", [], "fixed cannot take 'interval'"),
        ("fixed:=3", [], "fixed cannot take '=3'"),
        ("fixed:tolerance=1", [], "fixed cannot take 'tolerance=1'"),
        ("sencache:profile=x", [], "sencache cannot take 'profile=x'"),
        ("control:senses=x", [], "control cannot take 'senses=x'; write key=value with one of: t"),
        ("none:target=output", [], "none cannot take 'target=output'; write key=value with one of: no set"),
        ("fewer-steps:steps=3", [], "fewer-steps cannot take 'steps=3'"),
        ("fixed", ["interval=2"], "cannot read the setting 'interval=2'; write it as method.key=value"),
        ("fixed", ["magic.interval=2"], "unknown method 'magic'"),
        ("fixed", ["fixed.speed=2"], "fixed cannot take 'speed=2'"),
        ("fixed", ["none.target=output"], "none cannot take"),
        ("fixed", ["control.tolerance=1"], "a setting for 'control' is given, but no lane runs it"),
    ],
)
def test_what_cannot_be_read_is_refused(typed: str, overrides: list[str], message: str) -> None:
    with pytest.raises(SencacheError) as refusal:
        parse_lanes(typed, overrides)
    assert str(refusal.value).startswith(message)


# ---- anything that can be typed

PIECES = st.sampled_from(
    [*NAMES, *KEYS, ":", ",", "=", "+", ".", "0", "1.5", "-1", "nan", "1e999", " ", "linear"]
)
TYPED = st.text(max_size=40) | st.lists(PIECES, max_size=12).map("".join)
VALUES = st.text(string.printable, max_size=6) | st.sampled_from(
    ["0", "1", "0.5", "2+3", "-1", "1e9", "inf", "nan", "true", "hold", "linear", "output", "9" * 400]
)
OPTIONS = st.tuples(st.sampled_from(KEYS), VALUES).map("=".join)
LANES = st.builds(
    lambda method, options: ":".join([method, *options]),
    st.sampled_from(NAMES),
    st.lists(OPTIONS, max_size=3),
)


def parsed(typed: str, overrides: list[str]) -> list[LaneSpec]:
    """What `parse_lanes` makes of it; nothing where it refuses."""
    try:
        return parse_lanes(typed, overrides)
    except SencacheError:
        return []


@given(TYPED, st.lists(TYPED, max_size=2))
@example("none:", [])
@example("fixed:steps=", ["."])
def test_any_text_is_parsed_or_refused(typed: str, overrides: list[str]) -> None:
    lanes = parsed(typed, overrides)
    if lanes:
        assert lanes[0].method == "none"
        assert [lane.method for lane in lanes].count("fewer-steps") >= 1
        assert len({lane.name for lane in lanes}) == len(lanes)


@settings(max_examples=150)
@given(st.lists(LANES, min_size=1, max_size=3).map(",".join))
@example("fixed:steps=" + "9" * 5000)
def test_any_lane_is_planned_or_refused(typed: str) -> None:
    for lane in parsed(typed, []):
        with contextlib.suppress(SencacheError):
            plan = plan_lane(lane, REQUEST, [PROFILE])
            assert plan.spec is lane and plan.steps == REQUEST.steps
            assert plan.policy.config().keys() >= lane.given.keys()


# ---- planned

POLICIES = {cls.name: cls for cls in (Fixed, SenCache, MagCache, TeaCache, EasyCache, Control)}


def planned(typed: str, profile: Profile | None = PROFILE, **changes: Any) -> Planned:
    lane = next(lane for lane in parse_lanes(typed) if lane.method == typed.split(":")[0])
    return plan_lane(lane, REQUEST.model_copy(update=changes), [profile] if profile else [])


@pytest.mark.parametrize("method", POLICIES)
def test_a_lane_gets_its_own_policy(method: str) -> None:
    policy = planned(method).policy
    assert type(policy) is POLICIES[method] and policy.name == method
    assert policy.profile is (None if method in ("fixed", "easycache") else PROFILE)


def test_of_several_profiles_the_first_that_serves_is_used() -> None:
    """A preset's settings come from the first profile that has them for the method, whoever serves it."""
    sensitive = PROFILE.model_copy(update={"magcache": None, "teacache": None, "presets": {}})
    ratios = PROFILE.model_copy(update={"sensitivity": None})
    request = REQUEST.model_copy(update={"preset": "slow"})
    job = make_job(MODELS["tiny-wan"], request, parse_lanes("sencache,magcache,control"), [sensitive, ratios])
    policies = {lane.spec.method: lane.policy for lane in job.lanes}
    assert policies["sencache"].profile is sensitive and policies["magcache"].profile is ratios
    for method in ("sencache", "magcache", "control"):
        assert PROFILE.presets["slow"][method].items() <= policies[method].config().items()
    with pytest.raises(SencacheError, match="cannot serve a ltx model"):
        make_job(MODELS["tiny-ltx"], request, [], [sensitive])


def test_baselines_compute_every_step() -> None:
    for method in ("none", "fewer-steps"):
        for lane in (planned(method, None), planned(method, preset="slow")):
            assert lane.policy == Full() and lane.steps == REQUEST.steps


def test_what_was_typed_becomes_numbers() -> None:
    typed = "sencache:tolerance=0.25:max_reuses=2:compute_last=true:target=output:forecast=linear"
    policy = planned(typed).policy
    assert policy == SenCache(
        PROFILE, tolerance=0.25, max_reuses=2, compute_last=True, target="output", forecast="linear"
    )
    assert planned("fixed:steps=0+3+11").policy == Fixed(steps=(0, 3, 11))


@pytest.mark.parametrize("method", POLICIES)
def test_a_preset_sets_what_the_profile_says(method: str) -> None:
    plain = planned(method).policy.config()
    for preset in ("slow", "fast"):
        config = planned(method, preset=preset).policy.config()
        assert config == {**plain, **PROFILE.presets[preset][method]}
        assert method == "fixed" or config != plain


def test_what_the_user_gave_stands_above_the_preset_and_the_preset_above_the_defaults() -> None:
    policy = planned("easycache:threshold=0.5", preset="fast").policy
    assert policy.config()["threshold"] == 0.5 != PROFILE.presets["fast"]["easycache"]["threshold"]
    silent = PROFILE.model_copy(update={"presets": {"slow": {}}})
    assert planned("easycache", silent, preset="slow").policy == EasyCache()


@pytest.mark.parametrize(
    ("typed", "profile", "changes", "message"),
    [
        ("control", PROFILE, {"preset": "warp"}, "unknown preset 'warp'; this model has: slow, fast"),
        ("control", None, {"preset": "slow"}, "unknown preset 'slow'; this model has: none, it has no prof"),
        ("sencache", None, {}, "sencache needs a calibrated profile"),
        ("magcache", None, {}, "magcache needs a calibrated profile"),
        ("teacache", None, {}, "teacache needs a calibrated profile"),
        ("sencache", "sensitivity", {}, "the profile of tiny-wan holds no sensitivities"),
        ("magcache", "magcache", {}, "the profile of tiny-wan holds no MagCache ratios"),
        ("teacache", "teacache", {}, "the profile of tiny-wan holds no TeaCache polynomial"),
        ("control:tolerance=-1", PROFILE, {}, "control.tolerance is '-1'"),
        ("control:tolerance=nan", PROFILE, {}, "control.tolerance is 'nan'"),
        ("control:max_reuses=1.5", PROFILE, {}, "control.max_reuses is '1.5'"),
        ("control:target=pixels", PROFILE, {}, "control.target is 'pixels'"),
        ("control:forecast=cubic", PROFILE, {}, "control.forecast is 'cubic'"),
        ("fixed:steps=0+20", PROFILE, {}, "fixed.steps names step 20, but the run has steps 0 to 19"),
        ("fixed:steps=", PROFILE, {}, "fixed.steps.0 is ''"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    typed: str, profile: Any, changes: dict[str, Any], message: str
) -> None:
    if isinstance(profile, str):
        profile = PROFILE.model_copy(update={profile: None})
    with pytest.raises(SencacheError) as refusal:
        planned(typed, profile, **changes)
    assert str(refusal.value).startswith(message)


def recording(steps: int) -> Recording:
    """Of a run on which nothing moves."""
    names = ("latent_rms", "latent_l1", "output_l1")
    tables = {name: np.zeros((steps, steps)) for name in names} | {"output_norm": np.zeros(steps)}
    return Recording(tuple(float(t) for t in range(steps, 0, -1)), None, tables)


def test_a_budget_sets_the_steps_of_the_plain_sampler_and_spreads_fixed_ones_evenly() -> None:
    fewer = with_budget(planned("fewer-steps"), 7)
    assert (fewer.steps, fewer.policy) == (7, Full())
    plan = with_budget(planned("fixed"), 5, recording(20))
    assert plan.policy == Fixed(steps=(0, 4, 8, 12, 16))
    assert with_budget(planned("fixed:interval=3"), 5, recording(20)).policy == Fixed(interval=3)
