"""Settings of the methods: their defaults, how they are read, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
from strategies import LIVELY, lively, polynomial_profile, profile_data, ratio_profile, sensitivity_profile

from sencache import policies
from sencache.errors import SencacheError
from sencache.policies import (
    METHODS,
    EasyCache,
    MagCache,
    Policy,
    Schedule,
    SenCache,
    make_policy,
    uses_profile,
)
from sencache.profiles.profile import Profile


@pytest.fixture(scope="module")
def profile() -> Profile:
    """One profile that serves every method."""
    parts = {
        "sensitivity": sensitivity_profile([9.0, 5.0], [1.0, 1.0], [0.0, 0.0]).sensitivity,
        "magcache": ratio_profile([1.0, 0.99]).magcache,
        "teacache": polynomial_profile([1.0, 0.0]).teacache,
    }
    return Profile.model_validate(profile_data([9.0, 5.0], **parts))


def refusal(call: Callable[[], object]) -> str:
    """The message of a refusal: one sentence, then a remedy."""
    with pytest.raises(SencacheError) as caught:
        call()
    message = str(caught.value)
    assert ";" in message and "\n" not in message and not re.search(r"\.( [A-Z]|$)", message), message
    return message


def test_the_defaults_are_the_published_ones(profile):
    sencache = SenCache(profile)
    assert (sencache.early_tolerance, sencache.early_fraction, sencache.max_reuses) == (0.01, 0.2, 3)
    magcache = MagCache(profile)
    assert (magcache.threshold, magcache.max_reuses, magcache.retention) == (0.12, 2, 0.2)
    easycache = EasyCache()
    assert (easycache.threshold, easycache.forced_first, easycache.forced_last) == (0.05, 10, 1)
    assert {method: make_policy(method, {}, profile).target for method in METHODS} == {
        **dict.fromkeys(METHODS, "residual"),
        "easycache": "delta",
        "firstblock": "tail",
        "control": "prediction",
    }
    defaults = {method: make_policy(method, {}, profile) for method in METHODS}
    assert {policy.forecast for policy in defaults.values()} == {"hold"}
    assert {method for method, policy in defaults.items() if policy.repair != "none"} == {"control"}


@pytest.mark.parametrize(
    ("method", "typed", "expected"),
    [
        ("sencache", {"tolerance": "0.25", "max_reuses": "4", "compute_last": "true"}, (0.25, 4, True)),
        ("sencache", {"tolerance": "1e-3", "max_reuses": "1", "compute_last": "0"}, (0.001, 1, False)),
        ("teacache", {"forced_first": "5", "forced_last": "0"}, (5, 0)),
        (
            "easycache",
            {"forced_first": "0", "target": "output", "forecast": "linear"},
            (0, "output", "linear"),
        ),
        ("fixed", {"steps": ("0", "3"), "interval": "7"}, ((0, 3), 7)),
    ],
)
def test_settings_are_converted_as_typed(method, typed, expected, profile):
    policy = make_policy(method, typed, profile)
    found = tuple(getattr(policy, name) for name in typed)
    assert found == expected and [type(x) for x in found] == [type(x) for x in expected]


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("sencache", "tolerance", "-0.1"),
        ("sencache", "tolerance", "nan"),
        ("sencache", "tolerance", "inf"),
        ("sencache", "early_tolerance", -1),
        ("sencache", "early_fraction", "1.01"),
        ("sencache", "max_reuses", "2.5"),
        ("sencache", "max_reuses", "1001"),
        ("sencache", "compute_last", "perhaps"),
        ("sencache", "target", "video"),
        ("sencache", "forecast", "cubic"),
        ("magcache", "retention", "2"),
        ("magcache", "max_reuses", "0"),
        ("teacache", "threshold", "much"),
        ("teacache", "forced_first", "-1"),
        ("easycache", "threshold", float("nan")),
        ("fixed", "interval", "0"),
        ("fixed", "steps", "1,2"),
        ("control", "tolerance", "-1e-9"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_name_and_value(method, name, value, profile):
    assert refusal(lambda: make_policy(method, {name: value}, profile)).startswith(
        f"{method}.{name} is '{value}' ("
    )


@pytest.mark.parametrize("steps", [("0", "x"), ("0", "-1"), ("0", "1000")])
def test_a_wrong_entry_of_a_list_is_refused_with_its_place(steps):
    assert refusal(lambda: make_policy("fixed", {"steps": steps})).startswith(
        f"fixed.steps.1 is '{steps[1]}' ("
    )


def test_an_unknown_method_is_refused_with_those_there_are():
    message = refusal(lambda: make_policy("tecache", {}))
    assert "'tecache'" in message and all(name in message for name in METHODS)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_unknown_setting_is_refused_with_those_there_are(method, profile):
    own = make_policy(method, {}, profile).config()
    assert policies.settings(method) == list(own)
    for unknown in ("zeal", "profile"):
        message = refusal(lambda name=unknown: make_policy(method, {name: "1", **own}, profile))
        assert message.startswith(f"{method} has no setting '{unknown}'; it has ")
        assert all(name in message for name in own)


def test_calibrated_methods_need_a_profile_and_others_take_none(profile):
    calibrated = {method for method in METHODS if uses_profile(method)}
    assert calibrated == {"sencache", "magcache", "teacache"}
    for method in METHODS:
        if method in calibrated:
            message = refusal(lambda method=method: make_policy(method, {}))
            assert message.startswith(f"{method} needs a calibrated profile; calibrate ")
        else:
            assert make_policy(method, {}, profile) == make_policy(method, {})


@pytest.mark.parametrize("name", LIVELY)
def test_a_configuration_makes_the_same_policy_again_and_stays(name):
    """Through JSON, as a report keeps it."""
    policy: Policy = lively((2.0, 1.0))[name]
    policy = replace(policy, steps=(0, 1)) if name == "fixed" else policy
    config = json.loads(json.dumps(policy.config()))
    assert "profile" not in config
    assert make_policy(policy.name, config, getattr(policy, "profile", None)) == policy
    with pytest.raises(FrozenInstanceError):
        policy.target = "output"


@pytest.mark.parametrize("method", ["sencache", "magcache", "teacache"])
def test_a_policy_checks_its_profile_before_a_model_runs(method, profile):
    """Both when asked to and when started, and with the model's name."""
    bare = Profile.model_validate(profile_data([9.0, 5.0]))
    policy = make_policy(method, {}, bare)
    for ask in (lambda: policy.check(2), lambda: policy.start(Schedule((9.0, 5.0)))):
        assert "test/model" in refusal(ask)
    make_policy(method, {}, profile).check(2)
