"""Profiles: what is written comes back, what is asked of one is served, what differs is said."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_texts import altered, complete, refusal, text
from pydantic import ValidationError
from strategies import examples, polynomial_profile, profile_data, ratio_profile, sensitivity

from sencache.errors import SencacheError
from sencache.policies import make_policy
from sencache.policies.loading import load_profile, parse_profile
from sencache.profiles.library import bundled_profile, bundled_profiles
from sencache.profiles.profile import Profile, write_profile

# Round trip


def test_a_profile_comes_back_as_it_was_written(tmp_path: Path):
    profile = parse_profile(text(complete()))
    path = tmp_path / "new" / "folder" / "mine.json"
    write_profile(profile, path)
    loaded = load_profile(path)
    assert loaded == profile and loaded.model_dump() == profile.model_dump()
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.to_json() == path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == complete()
    assert (loaded.origin, profile.origin) == ("mine.json", None)
    assert list(path.parent.iterdir()) == [path]


def test_the_text_does_not_depend_on_how_the_source_was_laid_out():
    data = complete()
    shuffled = {key: data[key] for key in reversed(data)}
    profiles = [parse_profile(json.dumps(data, indent=7)), parse_profile(text(shuffled).encode())]
    assert profiles[0].to_json() == profiles[1].to_json() and profiles[0].sha256 == profiles[1].sha256
    assert profiles[0].to_json().endswith("}\n") and not profiles[0].to_json().endswith("\n\n")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("sensitivity.alpha_x.3", 0.5000000000000001),
        ("schedule.config.flow_shift", 5.0),
        ("provenance.licence", "MIT"),
    ],
)
def test_any_change_shows_in_the_hash(where, value):
    assert parse_profile(altered(where, value)).sha256 != parse_profile(text(complete())).sha256


finite = st.floats(-1e9, 1e9)
positive = st.floats(0, 1e9, exclude_min=True)


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    """Any lengths and any numbers that the schema allows."""
    steps = draw(st.integers(2, 6))

    def many(elements: st.SearchStrategy[float], count: int = steps) -> list[float]:
        return draw(st.lists(elements, min_size=count, max_size=count))

    table = steps - draw(st.integers(0, 1))
    alphas = sensitivity(many(positive, table), many(st.floats(0, 1e9), table))
    return profile_data(
        sorted(many(finite), reverse=True),
        sensitivity=alphas,
        magcache={"ratios": many(positive)},
        # Positive at 0, whatever the higher powers are.
        teacache={"coefficients": [*many(finite), draw(positive)], "signal": "modulated_input"},
        guidance_scale=draw(st.none() | st.floats(0, 100)),
        shape=None,
    )


@given(profiles())
@examples(100)
def test_every_number_survives_the_text(data):
    profile = parse_profile(text(data))
    again = parse_profile(profile.to_json())
    assert again == profile and again.to_json() == profile.to_json() and again.sha256 == profile.sha256
    assert list(again.schedule.timesteps) == data["schedule"]["timesteps"]
    assert list(again.sensitivity.alpha_x) == data["sensitivity"]["alpha_x"]
    assert list(again.magcache.ratios) == data["magcache"]["ratios"]
    assert list(again.teacache.coefficients) == data["teacache"]["coefficients"]


def test_profiles_are_immutable():
    profile = parse_profile(text(complete()))
    with pytest.raises(ValidationError):
        profile.dtype = "bfloat16"
    with pytest.raises(TypeError):
        profile.sensitivity.alpha_x[0] = 1.0


def test_published_constants_need_no_timesteps_or_shape():
    profile = ratio_profile([1.0, 0.99])
    assert profile.schedule.timesteps is None
    assert parse_profile(text({**complete(), "shape": None})).shape is None


# What a profile serves


def test_another_architecture_is_refused():
    profile = parse_profile(text(complete()))
    profile.require("wan")
    message = refusal(lambda: profile.require("ltx"))
    assert "test/model (wan)" in message and "choose a profile of a ltx model" in message


@pytest.mark.parametrize(
    ("part", "method", "code"),
    [
        ("sensitivity", "sencache", "profile.no-sensitivities"),
        ("magcache", "magcache", "profile.no-ratios"),
        ("teacache", "teacache", "profile.no-polynomial"),
    ],
)
def test_a_method_without_its_part_is_refused_with_both_remedies(part, method, code):
    def ask(**lacking: None) -> None:
        make_policy(method, {}, parse_profile(text(complete(presets={}, preset_nfe={}, **lacking)))).check(4)

    ask()
    message = refusal(lambda: ask(**{part: None}))
    assert "test/model" in message
    assert f"calibrate this model for {method} or pull a measured profile with `profiles pull`" in message
    with pytest.raises(SencacheError) as caught:
        ask(**{part: None})
    assert caught.value.code == code


def test_the_polynomial_starts_with_its_highest_power():
    assert polynomial_profile([2.0, 3.0, 5.0]).teacache_fit().rescale(10.0) == 235.0


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[float], list[float], float]:
    steps = draw(st.integers(2, 8))
    grid = st.integers(0, 20).map(lambda k: 50.0 * k)
    timesteps = draw(st.lists(grid, min_size=steps, max_size=steps))
    kept = steps - draw(st.integers(0, 1))
    return (
        sorted(timesteps, reverse=True),
        [float(k) for k in range(1, kept + 1)],
        draw(st.integers(0, 40)) * 25.0,
    )


@given(tables())
@examples(100)
def test_lookup_finds_the_first_of_the_nearest_rows(table):
    """Rows numbered from one in sampling order, with repeated timesteps and ties between neighbours."""
    timesteps, rows, asked = table
    profile = Profile.model_validate(profile_data(timesteps, sensitivity=sensitivity(rows, rows)))
    distances = [abs(t - asked) for t in timesteps[: len(rows)]]
    first = 1.0 + distances.index(min(distances))
    assert profile.sensitivities().at(asked) == (first, first)


# What sets a run apart


@pytest.mark.parametrize(
    ("timesteps", "elements", "said"),
    [
        ((1000.0, 750.5, 500.0, 250.0), 192, []),
        ((999.0, 751.5, 500.5, 249.0), 192, []),
        ((1000.0, 500.0), 192, ["4 steps, this run 2"]),
        ((1000.0, 750.5, 500.0, 251.1), 192, ["other timesteps"]),
        ((1000.0, 750.5, 500.0, 250.0), 384, ["192 elements, this run has 384"]),
        ((1000.0,), 1, ["4 steps, this run 1", "192 elements, this run has 1"]),
    ],
)
def test_differences_are_said(timesteps, elements, said):
    notes = parse_profile(text(complete())).differences(timesteps, elements)
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))


def test_what_a_profile_does_not_know_is_no_difference():
    data = profile_data(None, 4, magcache={"ratios": [1.0, 0.9, 0.9, 0.9]}, shape=None)
    assert parse_profile(text(data)).differences((4.0, 3.0, 2.0, 1.0), 7) == []


# Those that come with the software


@pytest.mark.parametrize("name", sorted(bundled_profiles()))
def test_bundled_profiles_are_valid_and_their_presets_are_settings_that_exist(name):
    path = bundled_profile(name)
    profile = load_profile(path)
    assert profile.to_json() == path.read_text(encoding="utf-8")
    assert profile.origin == path.name == f"{name}.json"
    assert profile.provenance.source and profile.provenance.licence
    assert profile.magcache is None or profile.magcache.ratios[0] == 1.0
    for preset in profile.presets.values():
        for method, config in preset.items():
            make_policy(method, config, profile).check(profile.schedule.steps)


def test_the_bundled_model_has_a_profile_for_every_method():
    profile = load_profile(bundled_profile("tiny-wan.unipc-50"))
    assert (profile.model.id, profile.model.architecture, profile.schedule.steps) == ("tiny-wan", "wan", 50)
    profile.require("wan")
    profile.sensitivities()
    profile.teacache_fit()
    assert len(profile.magnitude_ratios(50)) == 50
    assert set(profile.presets) == {"slow", "fast"}


def test_an_unknown_bundled_profile_is_refused_with_those_there_are():
    with pytest.raises(SencacheError, match=r"no bundled profile 'wan'; there are .*tiny-wan\.unipc-50"):
        bundled_profile("wan")
