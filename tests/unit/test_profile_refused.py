"""What is wrong with a profile is refused by field and value."""

from __future__ import annotations

from pathlib import Path

import pytest
from profile_texts import altered, complete, refusal, text
from strategies import sensitivity

from sencache.errors import SencacheError
from sencache.policies.loading import load_profile, parse_profile
from sencache.profiles.profile import MAX_BYTES, write_profile

NAN, INF = float("nan"), float("inf")
REQUIRED = ("schema", "model", "schedule", "shape", "guidance_scale", "dtype", "sensitivity", "magcache")


@pytest.mark.parametrize(
    ("where", "value", "field", "shown"),
    [
        # Keys that the schema does not have, on every floor.
        ("alpha", 1, "alpha", "'1'"),
        ("schedule.shift", 3.0, "schedule.shift", "'3.0'"),
        ("sensitivity.alpha", [], "sensitivity.alpha", "'[]'"),
        # Numbers that are not finite.
        ("sensitivity.alpha_x.1", NAN, "sensitivity.alpha_x.1", "'nan'"),
        ("sensitivity.alpha_x_std.0", NAN, "sensitivity.alpha_x_std.0", "'nan'"),
        ("magcache.ratios.3", INF, "magcache.ratios.3", "'inf'"),
        ("teacache.coefficients.0", -INF, "teacache.coefficients.0", "'-inf'"),
        ("schedule.timesteps.0", INF, "schedule.timesteps.0", "'inf'"),
        ("schedule.sigmas", [1.0, NAN, 0.5, 0.1], "schedule.sigmas.1", "'nan'"),
        # Out of range.
        ("sensitivity.alpha_x.2", -0.5, "sensitivity.alpha_x.2", "'-0.5'"),
        ("magcache.ratios.2", 0, "magcache.ratios.2", "'0'"),
        ("teacache.coefficients", [0.0] * 13, "teacache.coefficients", "at most 12"),
        ("schedule.steps", 1001, "schedule.steps", "'1001'"),
        ("shape.latent.1", 0, "shape.latent.1", "'0'"),
        ("teacache.fitted_range", [0.2, 0.1], "ends before it begins", "(0.2, 0.1)"),
        ("preset_nfe.slow.sencache.max", -1, "preset_nfe.slow.sencache.max", "'-1'"),
        ("sensitivity.alpha_x.0", 1.1e9, "sensitivity.alpha_x.0", "'1100000000.0'"),
        ("calibration.seeds.0", 2**63, "calibration.seeds.0", f"'{2**63}'"),
        ("schedule.config.flow_shift", 10**4000, "schedule.config.flow_shift", "'1000000"),
        # Of another kind.
        ("schema", "sencache.profile/2", "schema", "'sencache.profile/2'"),
        ("model.architecture", "flux 2", "model.architecture", "'flux 2'"),
        ("teacache.signal", "latent", "teacache.signal", "'latent'"),
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
        # Lengths that do not fit each other.
        ("schedule.timesteps", [9.0, 5.0], "timesteps has 2 entries", "4 steps"),
        ("schedule.sigmas", [1.0], "sigmas has 1 entries", "4 steps"),
        ("sensitivity.alpha_t", [0.1], "alpha_t has 1 entries", "alpha_x 4"),
        ("sensitivity.alpha_x_std", [0.1], "alpha_x_std has 1 entries", "alpha_x 4"),
        ("sensitivity", sensitivity([1.0] * 2, [1.0] * 2), "sensitivity.alpha_x has 2 entries", "4 steps"),
        ("sensitivity", sensitivity([1.0] * 5, [1.0] * 5), "sensitivity.alpha_x has 5 entries", "4 steps"),
        ("magcache.ratios", [1.0] * 3, "magcache.ratios has 3 entries", "4 steps"),
        # In the wrong order, or without what they rest on.
        ("schedule.timesteps", [1000.0, 500.0, 500.5, 1.0], "timesteps rise from 500.0", "to 500.5"),
        ("shape.elements", 191, "elements is 191", "has 192"),
        ("schedule.timesteps", None, "sensitivity needs schedule.timesteps", "the file is"),
    ],
)
def test_what_is_wrong_is_refused_by_field_and_value(where, value, field, shown):
    message = refusal(lambda: parse_profile(altered(where, value), "mine.json"))
    assert message.startswith("mine.json: ") and message.endswith("; correct it or calibrate anew")
    assert field in message and shown in message


@pytest.mark.parametrize("where", ["schedule.config.flow_shift", "presets.slow.sencache.tolerance"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_numbers_that_are_not_finite_are_refused_in_free_form_parts_too(where, value):
    message = refusal(lambda: parse_profile(altered(where, value)))
    assert where.rpartition(".")[2] in message and str(value) in message


@pytest.mark.parametrize("missing", [*REQUIRED, "teacache", "calibration"])
def test_a_missing_part_is_refused_by_name(missing):
    data = complete()
    del data[missing]
    assert f"profile: {missing} is " in refusal(lambda: parse_profile(text(data)))


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
