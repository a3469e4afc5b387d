"""Profiles: what is written comes back, what is wrong is refused by name, what differs is said."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import examples, polynomial_profile, profile_data, ratio_profile, sensitivity

from sencache.errors import SencacheError
from sencache.library import bundled_profile, bundled_profiles
from sencache.policies import make_policy
from sencache.profile import (
    MAX_BYTES,
    Profile,
    load_profile,
    parse_profile,
    write_profile,
)


def complete(**changes: Any) -> dict[str, Any]:
    """A profile of four steps with every part, as JSON data."""
    parts: dict[str, Any] = {
        "sensitivity": sensitivity([2.0, 1.5, 1.0, 0.5], [0.01, 0.02, 0.03, 0.04]),
        "magcache": {"ratios": [1.0, 0.99, 0.98, 0.9]},
        "teacache": {
            "coefficients": [2.5, -0.5, 0.0],
            "signal": "time_projection",
            "forced_first": 1,
            "forced_last": 1,
            "fitted_range": [0.01, 0.2],
        },
        "presets": {"slow": {"sencache": {"tolerance": 0.1}, "fixed": {}}},
        "preset_nfe": {"slow": {"sencache": {"mean": 2.5, "std": 0.5, "min": 2, "max": 3}}},
        "calibration": {
            "prompts": ["a red circle"],
            "seeds": [0, 1],
            "date": "2026-11-20",
            "versions": {"torch": "2.11.0"},
            "seconds": 1.5,
            "method": "paper",
            "clips": ["a.mp4"],
            "cost": 2.0,
        },
    }
    return profile_data([1000.0, 750.5, 500.0, 250.0], **{**parts, **changes})


def text(data: Any) -> str:
    return json.dumps(data)


def altered(where: str, value: Any) -> str:
    """The complete profile's text with one value put at the dotted path `where`."""
    data = complete()
    *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    place: Any = data
    for part in path:
        place = place[part]
    place[last] = value
    return text(data)


def refusal(call: Callable[[], object]) -> str:
    """The message of a refusal: one sentence, then a remedy."""
    with pytest.raises(SencacheError) as caught:
        call()
    message = str(caught.value)
    assert re.search(r"; (correct|check|choose|calibrate|list|give) ", message), message
    assert "\n" not in message and not re.search(r"\. [A-Z]|\.$", message), message
    return message


# Round trip


def test_a_profile_comes_back_as_it_was_written(tmp_path: Path):
    profile = parse_profile(text(complete()))
    path = tmp_path / "new" / "folder" / "mine.json"
    write_profile(profile, path)
    loaded = load_profile(path)
    assert loaded.model_dump() == profile.model_dump() and loaded.sha256 == profile.sha256
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.to_json() == path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == complete()
    assert (loaded.origin, profile.origin) == ("mine.json", None)
    assert list(path.parent.iterdir()) == [path]


def test_a_profile_equals_the_one_read_from_its_file(tmp_path: Path):
    profile = parse_profile(text(complete()))
    write_profile(profile, tmp_path / "mine.json")
    assert load_profile(tmp_path / "mine.json") == profile


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
        ("magcache.ratios.1", 0.991),
        ("teacache.coefficients.0", 2.25),
        ("schedule.config.flow_shift", 5.0),
        ("presets.slow.sencache.tolerance", 0.2),
        ("model.revision", "main"),
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


# Refusals

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("where", "value", "field", "shown"),
    [
        # Keys that the schema does not have, on every floor.
        ("alpha", 1, "alpha", "'1'"),
        ("model.name", "x", "model.name", "'x'"),
        ("schedule.shift", 3.0, "schedule.shift", "'3.0'"),
        ("shape.depth", 2, "shape.depth", "'2'"),
        ("sensitivity.alpha", [], "sensitivity.alpha", "'[]'"),
        ("magcache.ratio", 1, "magcache.ratio", "'1'"),
        ("teacache.degree", 4, "teacache.degree", "'4'"),
        ("calibration.gpu", "H200", "calibration.gpu", "'H200'"),
        ("provenance.url", "x", "provenance.url", "'x'"),
        # Numbers that are not finite.
        ("sensitivity.alpha_x.1", NAN, "sensitivity.alpha_x.1", "'nan'"),
        ("sensitivity.alpha_t.2", INF, "sensitivity.alpha_t.2", "'inf'"),
        ("sensitivity.alpha_x_std.0", NAN, "sensitivity.alpha_x_std.0", "'nan'"),
        ("sensitivity.alpha_t_std.3", INF, "sensitivity.alpha_t_std.3", "'inf'"),
        ("magcache.ratios.1", NAN, "magcache.ratios.1", "'nan'"),
        ("magcache.ratios.3", INF, "magcache.ratios.3", "'inf'"),
        ("teacache.coefficients.0", -INF, "teacache.coefficients.0", "'-inf'"),
        ("schedule.timesteps.0", INF, "schedule.timesteps.0", "'inf'"),
        ("schedule.sigmas", [1.0, NAN, 0.5, 0.1], "schedule.sigmas.1", "'nan'"),
        ("guidance_scale", NAN, "guidance_scale", "'nan'"),
        ("calibration.seconds", INF, "calibration.seconds", "'inf'"),
        # Out of range.
        ("sensitivity.alpha_x.2", -0.5, "sensitivity.alpha_x.2", "'-0.5'"),
        ("sensitivity.alpha_t.0", -1e-9, "sensitivity.alpha_t.0", "'-1e-09'"),
        ("sensitivity.alpha_x_std.1", -1, "sensitivity.alpha_x_std.1", "'-1'"),
        ("sensitivity.samples", 0, "sensitivity.samples", "'0'"),
        ("magcache.ratios.2", -0.9, "magcache.ratios.2", "'-0.9'"),
        ("magcache.ratios.2", 0, "magcache.ratios.2", "'0'"),
        ("teacache.forced_first", -1, "teacache.forced_first", "'-1'"),
        ("teacache.coefficients", [], "teacache.coefficients", "'[]'"),
        ("teacache.coefficients", [0.0] * 13, "teacache.coefficients", "at most 12"),
        ("schedule.steps", 0, "schedule.steps", "'0'"),
        ("schedule.steps", 1001, "schedule.steps", "'1001'"),
        ("shape.frames", 0, "shape.frames", "'0'"),
        ("shape.latent.1", 0, "shape.latent.1", "'0'"),
        ("guidance_scale", -1, "guidance_scale", "'-1'"),
        ("teacache.fitted_range.0", -0.1, "teacache.fitted_range.0", "'-0.1'"),
        ("teacache.fitted_range", [0.2, 0.1], "ends before it begins", "(0.2, 0.1)"),
        ("preset_nfe.slow.sencache.max", -1, "preset_nfe.slow.sencache.max", "'-1'"),
        ("sensitivity.alpha_x.0", 1.1e9, "sensitivity.alpha_x.0", "'1100000000.0'"),
        ("magcache.ratios.0", 1e10, "magcache.ratios.0", "'10000000000.0'"),
        ("teacache.coefficients.1", -1e10, "teacache.coefficients.1", "'-10000000000.0'"),
        ("shape.latent.0", 2**41, "shape.latent.0", f"'{2**41}'"),
        ("calibration.seeds.1", -1, "calibration.seeds.1", "'-1'"),
        ("calibration.seeds.0", 2**63, "calibration.seeds.0", f"'{2**63}'"),
        ("schedule.config.flow_shift", 10**4000, "schedule.config.flow_shift", "'1000000"),
        ("presets.slow.sencache.tolerance", -1e10, "presets.slow.sencache.tolerance", "'-10000000000.0'"),
        ("calibration.seconds", -1, "calibration.seconds", "'-1'"),
        # Of another kind.
        ("schema", "sencache.profile/2", "schema", "'sencache.profile/2'"),
        ("model.architecture", "flux", "model.architecture", "'flux'"),
        ("teacache.signal", "latent", "teacache.signal", "'latent'"),
        ("sensitivity.target", "delta", "sensitivity.target", "'delta'"),
        ("provenance.kind", "guessed", "provenance.kind", "'guessed'"),
        ("sensitivity.alpha_x.0", "many", "sensitivity.alpha_x.0", "'many'"),
        ("schedule.steps", 4.5, "schedule.steps", "'4.5'"),
        ("presets", {"slow": 1}, "presets.slow", "'1'"),
        ("model.id", "x" * 2001, "model.id", "xxx"),
        ("schedule.config.flow_shift", {"a": 1}, "schedule.config.flow_shift", "flat list"),
        ("schedule.config.flow_shift", [[1]], "schedule.config.flow_shift", "flat list"),
        ("schedule.config.flow_shift", "x" * 2001, "schedule.config.flow_shift", "2000 characters"),
        ("schedule.config.flow_shift", [0] * 1001, "schedule.config.flow_shift", "at most 1,000"),
        # What would make every step reuse.
        ("sensitivity", sensitivity([0.0] * 4, [0.0] * 4), "alpha_x and alpha_t are all zero", "reused"),
        ("teacache.coefficients", [0.0, 0.0], "positive for no change", "reused"),
        ("teacache.coefficients", [-3.0, 0.0], "positive for no change", "reused"),
        # Lengths that do not fit each other.
        ("schedule.timesteps", [9.0, 5.0], "timesteps has 2 entries", "4 steps"),
        ("schedule.timesteps", [9.0, 5.0, 4.0, 2.0, 1.0], "timesteps has 5 entries", "4 steps"),
        ("schedule.sigmas", [1.0], "sigmas has 1 entries", "4 steps"),
        ("schedule.sigmas", [1.0, 0.5, 0.4, 0.3, 0.2], "sigmas has 5 entries", "4 steps"),
        ("sensitivity.alpha_t", [0.1], "alpha_t has 1 entries", "alpha_x 4"),
        ("sensitivity.alpha_x_std", [0.1], "alpha_x_std has 1 entries", "alpha_x 4"),
        ("sensitivity.alpha_t_std", [0.1] * 5, "alpha_t_std has 5 entries", "alpha_x 4"),
        ("sensitivity", sensitivity([1.0] * 2, [1.0] * 2), "sensitivity.alpha_x has 2 entries", "4 steps"),
        ("sensitivity", sensitivity([1.0] * 5, [1.0] * 5), "sensitivity.alpha_x has 5 entries", "4 steps"),
        ("magcache.ratios", [1.0] * 3, "magcache.ratios has 3 entries", "4 steps"),
        ("magcache.ratios", [1.0] * 5, "magcache.ratios has 5 entries", "4 steps"),
        # In the wrong order, or without what they rest on.
        ("schedule.timesteps", [1000.0, 500.0, 500.5, 1.0], "timesteps rise", "schedule is"),
        ("schedule.timesteps", None, "sensitivity needs schedule.timesteps", "the file is"),
    ],
)
def test_what_is_wrong_is_refused_by_field_and_value(where, value, field, shown):
    message = refusal(lambda: parse_profile(altered(where, value), "mine.json"))
    assert message.startswith("mine.json: ") and message.endswith("; correct it or calibrate anew")
    assert field in message and shown in message


def test_rising_timesteps_are_refused_with_their_values():
    message = refusal(lambda: parse_profile(altered("schedule.timesteps", [1000.0, 500.0, 500.5, 1.0])))
    assert "500.0" in message and "500.5" in message


@pytest.mark.parametrize("where", ["schedule.config.flow_shift", "presets.slow.sencache.tolerance"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_numbers_that_are_not_finite_are_refused_in_free_form_parts_too(where, value):
    message = refusal(lambda: parse_profile(altered(where, value)))
    assert where.rpartition(".")[2] in message and str(value) in message


def test_a_latent_of_another_size_than_it_says_is_refused():
    assert "elements" in refusal(lambda: parse_profile(altered("shape.elements", 191)))


@pytest.mark.parametrize(
    "missing",
    [
        "model",
        "schedule",
        "shape",
        "guidance_scale",
        "dtype",
        "sensitivity",
        "magcache",
        "teacache",
        "calibration",
    ],
)
def test_a_missing_part_is_refused_by_name(missing):
    data = complete()
    del data[missing]
    assert f"profile: {missing} is " in refusal(lambda: parse_profile(text(data)))


def test_a_file_that_does_not_say_its_schema_is_refused():
    data = complete()
    del data["schema"]
    assert "schema" in refusal(lambda: parse_profile(text(data)))


@pytest.mark.parametrize("raw", ["", "{", "[]", "null", '"text"', b"\xff\xfe\x00", "{} {}", '{"schema": }'])
def test_what_is_no_profile_at_all_is_refused(raw):
    assert refusal(lambda: parse_profile(raw, "here.json")).startswith("here.json: ")


def test_repeated_timesteps_are_no_error():
    assert parse_profile(altered("schedule.timesteps", [9.0, 9.0, 5.0, 5.0])).schedule.steps == 4


def test_the_last_step_needs_no_sensitivities():
    profile = parse_profile(altered("sensitivity", sensitivity([3.0, 2.0, 1.0], [0.0] * 3)))
    assert profile.sensitivities().at(250.0) == (1.0, 0.0)


def test_a_file_over_the_limit_is_refused_unread(tmp_path, monkeypatch):
    content = text(complete())
    path = tmp_path / "big.json"
    path.write_text(content.ljust(MAX_BYTES))
    assert load_profile(path).schedule.steps == 4
    path.write_text(content.ljust(MAX_BYTES + 1))
    raw = path.read_text()
    monkeypatch.delattr(Path, "read_bytes")
    for refuse in (lambda: load_profile(path), lambda: parse_profile(raw, str(path))):
        message = refusal(refuse)
        assert str(path) in message and "1,000,000" in message


def test_a_file_that_cannot_be_read_is_refused_with_its_path(tmp_path):
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "none" / "x.json"):
        assert f"cannot read profile {path} (" in refusal(lambda p=path: load_profile(p))


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SencacheError, match="cannot write"):
        write_profile(parse_profile(text(complete())), tmp_path / "file" / "mine.json")


# What a profile serves


def test_another_architecture_is_refused():
    profile = parse_profile(text(complete()))
    profile.require("wan")
    message = refusal(lambda: profile.require("ltx"))
    assert "test/model (wan)" in message and "choose a profile of a ltx model" in message


@pytest.mark.parametrize(
    ("part", "ask", "method"),
    [
        ("sensitivity", lambda p: p.sensitivities(), "sencache"),
        ("magcache", lambda p: p.magnitude_ratios(4), "magcache"),
        ("teacache", lambda p: p.teacache_fit(), "teacache"),
    ],
)
def test_a_method_without_its_part_is_refused(part, ask, method):
    ask(parse_profile(text(complete())))
    message = refusal(lambda: ask(parse_profile(altered(part, None))))
    assert "test/model" in message and f"calibrate this model for {method}" in message


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
@examples(300)
def test_lookup_finds_the_first_of_the_nearest_rows(table):
    """Rows numbered from one in sampling order, with repeated timesteps and ties between neighbours."""
    timesteps, rows, asked = table
    profile = Profile.model_validate(profile_data(timesteps, sensitivity=sensitivity(rows, rows)))
    distances = [abs(t - asked) for t in timesteps[: len(rows)]]
    first = 1.0 + distances.index(min(distances))
    assert profile.sensitivities().at(asked) == (first, first)


# What sets a run apart


def test_the_calibrated_run_has_no_differences():
    profile = parse_profile(text(complete()))
    assert profile.differences((1000.0, 750.5, 500.0, 250.0), 192) == []
    assert profile.differences((999.0, 751.5, 500.5, 249.0), 192) == []


@pytest.mark.parametrize(
    ("timesteps", "elements", "said"),
    [
        ((1000.0, 500.0), 192, ["4 steps, this run 2"]),
        ((1000.0, 750.5, 500.0, 251.1), 192, ["other timesteps"]),
        ((998.9, 750.5, 500.0, 250.0), 192, ["other timesteps"]),
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
def test_bundled_profiles_are_valid_and_canonical(name):
    path = bundled_profile(name)
    profile = load_profile(path)
    assert profile.to_json() == path.read_text(encoding="utf-8")
    assert profile.origin == path.name == f"{name}.json"
    assert profile.provenance.source and profile.provenance.licence
    assert profile.magcache is None or profile.magcache.ratios[0] == 1.0


@pytest.mark.parametrize("name", sorted(bundled_profiles()))
def test_bundled_presets_are_settings_that_exist(name):
    profile = load_profile(bundled_profile(name))
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
