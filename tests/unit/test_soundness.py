"""What a profile offers is refused when nothing would be computed on any run, and only then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st
from strategies import Course, courses, examples, play, profile_data, sensitivity

import sencache
from sencache.app.pages.profiles import read_upload
from sencache.app.request import make_request, plan_request
from sencache.comparison.plan import parse_lanes, plan_lane
from sencache.errors import SencacheError
from sencache.policies import METHODS, make_policy
from sencache.policies.loading import load_all_bundled, load_bundled, load_profile, parse_profile
from sencache.policies.soundness import check_offer
from sencache.profiles.library import bundled_profiles
from sencache.profiles.profile import Profile
from sencache.schema import Request

FORCED = {"first_step", "warmup", "last_step"}


def everything(timesteps: tuple[float, ...], **parts: Any) -> Profile:
    """Constants as they are measured, for every method."""
    n = len(timesteps)
    usual: dict[str, Any] = {
        "sensitivity": sensitivity([2.0] * n, [0.01] * n),
        "magcache": {"ratios": [1.0, *[0.99] * (n - 1)]},
        "teacache": {"coefficients": [2.0, 0.0], "signal": "time_embedding"},
    }
    return Profile.model_validate(profile_data(timesteps, **(usual | parts)))


def even(steps: int) -> tuple[float, ...]:
    return tuple(1000.0 - 1000 * k / steps for k in range(steps))


def code_of(profile: Profile, method: str, config: dict[str, Any]) -> str | None:
    try:
        check_offer(profile, method, config)
    except SencacheError as error:
        return error.code
    return None


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_sound_by_default(method: str) -> None:
    for steps in (1, 2, 5, 12, 50, 1000):
        check_offer(everything(even(steps)), method, {})


@pytest.mark.parametrize("name", bundled_profiles())
def test_what_comes_with_the_software_is_sound(name: str) -> None:
    load_profile(bundled_profiles()[name])


def test_no_way_in_takes_a_profile_that_reuses_everything(tmp_path: Path) -> None:
    greedy = everything(even(50), teacache={"coefficients": [1e-9], "signal": "time_embedding"})
    text, path = greedy.to_json(), tmp_path / "greedy.json"
    path.write_text(text, encoding="utf-8")
    for read in (
        lambda: sencache.load_profile(path),
        lambda: parse_profile(text),
        lambda: read_upload(text.encode(), path.name),
        lambda: plan_request(make_request(prompt="x", profile_json=text)),
    ):
        with pytest.raises(SencacheError, match="teacache would reuse every step") as caught:
            read()
        assert caught.value.code == "profile.reuses-everything"


def test_what_comes_with_the_software_is_read_once() -> None:
    name = next(iter(bundled_profiles()))
    assert load_bundled(name) is load_all_bundled()[name] == load_profile(bundled_profiles()[name])


def test_ten_in_a_row_are_let_pass_and_eleven_are_not() -> None:
    for steps, code in ((11, None), (12, "profile.reuses-everything")):
        assert code_of(everything(even(steps)), "fixed", {"steps": (0,)}) == code


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("sencache", {"tolerance": 1e9, "early_tolerance": 1e9, "max_reuses": 20}),
        ("sencache", {"tolerance": 1e9, "early_tolerance": 1e9, "max_reuses": 1000, "early_fraction": 0.0}),
        ("magcache", {"threshold": 1e9, "max_reuses": 1000}),
        ("fixed", {"interval": 30}),
        ("fixed", {"steps": (0, 49)}),
    ],
)
def test_one_more_computed_step_makes_it_sound(method: str, config: dict[str, Any]) -> None:
    """The same but for a cap, a tighter tolerance early on, or one step more."""
    profile = everything(even(50))
    looser = {"max_reuses": 1000, "interval": 50, "steps": (0,)}
    greedy = config | {key: looser[key] for key in config.keys() & looser.keys()}
    tighter = config | ({"threshold": 0.2} if method == "magcache" else {})
    tighter |= {"early_tolerance": 0.01, "early_fraction": 0.2} if config.get("early_fraction") == 0.0 else {}
    assert code_of(profile, method, greedy) == "profile.reuses-everything"
    assert code_of(profile, method, tighter) is None


@st.composite
def offers(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Settings of any size, mostly large."""
    amount = st.sampled_from([0.3, 5.0, 100.0, 1e6, 1e9])
    method = draw(st.sampled_from(["sencache", "magcache", "teacache", "control", "easycache"]))
    knob = "tolerance" if method in ("sencache", "control") else "threshold"
    config: dict[str, Any] = {knob: draw(amount)}
    if method in ("sencache", "magcache", "control"):
        config["max_reuses"] = draw(st.sampled_from([9, 1000, 1000]))
    if method == "sencache":
        config |= {"early_tolerance": draw(amount), "early_fraction": draw(st.sampled_from([0.0, 0.2]))}
    if method == "control":
        config["forecast"] = draw(st.sampled_from(["hold", "linear"]))
    return method, config


@given(courses(least=14, most=20), offers(), st.sampled_from([1e-6, 0.01, 1.0]))
@examples(150)
def test_what_is_refused_would_compute_nothing_on_any_run(
    course: Course, offer: tuple[str, dict[str, Any]], scale: float
) -> None:
    """Played on a run of its own signals, none of them near the liveliest."""
    method, config = offer
    n = len(course)
    profile = everything(
        course.timesteps,
        sensitivity=sensitivity([scale] * n, [scale / 100] * n),
        magcache={"ratios": [1.0, *[1 - scale / 20] * (n - 1)]},
        teacache={"coefficients": [scale, scale / 10], "signal": "time_embedding"},
    )
    refused = code_of(profile, method, config)
    event(f"{method} {'refused' if refused else 'let pass'}")
    assume(refused)
    assert refused == "profile.reuses-everything"
    decisions, _ = play(make_policy(method, config, profile), course)
    assert all(decision.reuse or decision.reason in FORCED for decision in decisions)


def test_a_lane_is_not_planned_on_a_hostile_preset() -> None:
    """Also where the user sets something else on top of it."""
    greedy = {"slow": {"magcache": {"threshold": 1e9, "max_reuses": 1000}}}
    profile = everything(even(50), presets=greedy)
    asked = Request(prompt="x", steps=50, height=32, width=32, frames=5, guidance_scale=1, preset="slow")
    for typed in ("magcache", "magcache:forecast=linear"):
        lane = next(lane for lane in parse_lanes(typed) if lane.method == "magcache")
        with pytest.raises(SencacheError, match="would reuse every step") as caught:
            plan_lane(lane, asked, [profile])
        assert caught.value.code == "profile.reuses-everything"
    other = next(lane for lane in parse_lanes("sencache") if lane.method == "sencache")
    assert plan_lane(other, asked, [profile]).policy.name == "sencache"


def test_users_may_set_what_they_like() -> None:
    profile = everything(even(50))
    asked = Request(prompt="x", steps=50, height=32, width=32, frames=5, guidance_scale=1)
    lane = next(lane for lane in parse_lanes("magcache:threshold=1e9:max_reuses=1000") if lane.given)
    assert plan_lane(lane, asked, [profile]).policy.config()["max_reuses"] == 1000
