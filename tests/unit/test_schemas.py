"""The published JSON schemas: current, valid themselves, and of one mind with the software, as an
independent validator sees it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from documents import changed, whole, without

from sencache.cli import commands as cli
from sencache.comparison.compare import compare
from sencache.comparison.plan import parse_lanes
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.policies.loading import parse_profile
from sencache.profiles.library import bundled_profiles
from sencache.profiles.profile import Profile
from sencache.schema import Request

FOLDER = Path(__file__).parents[2] / "docs" / "schema"


def published(name: str) -> Path:
    return FOLDER / f"{name}.schema.json"


def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(published(name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", ["profile", "report"])
def test_the_published_schema_is_what_the_program_prints_and_valid_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When it differs: `python -m sencache schema NAME > docs/schema/NAME.schema.json`."""
    monkeypatch.setattr(sys, "argv", ["sencache", "schema", name])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert capsys.readouterr().out == published(name).read_text(encoding="utf-8")
    schema = validator(name).schema
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_bundled_profile_is_valid() -> None:
    check = validator("profile")
    check.validate(whole())
    for path in bundled_profiles().values():
        check.validate(json.loads(path.read_text(encoding="utf-8")))


def test_a_report_is_valid(tiny_wan: Model, bundled_profile: Profile) -> None:
    asked = Request(prompt="a blue square", steps=4, height=32, width=32, frames=5, guidance_scale=1.0)
    lanes = parse_lanes("sencache,magcache,teacache,easycache,control,fixed:steps=0+2")
    *_, last = compare(tiny_wan, asked, lanes, bundled_profile)
    check, data = validator("report"), json.loads(last.report.to_json())
    check.validate(data)
    data["lanes"][0]["trace"][0]["surprise"] = 1
    assert not check.is_valid(data)


# Faults that a schema can state. The software must refuse each of them as well, and more than a schema can:
# lengths that do not fit each other, timesteps that rise, tables that are all zero.
BAD = {
    "unknown key": changed("model/name", "x"),
    "unknown key at the top": {**whole(), "notes": []},
    "missing part": without("provenance"),
    "missing key": without("sensitivity/alpha_t"),
    "another schema": changed("schema", "sencache.profile/2"),
    "another architecture": changed("model/architecture", "flux 2"),
    "text for a number": changed("sensitivity/alpha_x/3", "2.5"),
    "number for a text": changed("model/id", 5),
    "null for a number": changed("magcache/ratios/4", None),
    "fraction for an integer": changed("schedule/steps", 50.5),
    "negative alpha": changed("sensitivity/alpha_x/0", -0.1),
    "ratio of zero": changed("magcache/ratios/1", 0.0),
    "huge alpha": changed("sensitivity/alpha_t/0", 1e10),
    "huge coefficient": changed("teacache/coefficients/0", -1e10),
    "no coefficients": changed("teacache/coefficients", []),
    "many coefficients": changed("teacache/coefficients", [1.0] * 13),
    "unknown signal": changed("teacache/signal", "latent"),
    "no steps": changed("schedule/steps", 0),
    "many steps": changed("schedule/steps", 1001),
    "many ratios": changed("magcache/ratios", [1.0] * 1001),
    "long text": changed("provenance/source", "x" * 2001),
    "nested setting": changed("schedule/config/flow_shift", {"a": 1}),
    "list in a list": changed("schedule/config/flow_shift", [[1]]),
    "long list": changed("schedule/config/flow_shift", [0] * 1001),
    "huge setting": changed("presets/slow/sencache/tolerance", 1e10),
    "a preset that is a list": changed("presets/slow", []),
    "many presets": changed("presets", {str(k): {} for k in range(9)}),
    "negative seed": changed("calibration/seeds/0", -1),
    "huge seed": changed("calibration/seeds/0", 2**63),
    "a list": [whole()],
    "nothing": None,
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_profiles_are_not_valid(fault: str) -> None:
    assert not validator("profile").is_valid(BAD[fault])
    with pytest.raises(SencacheError):
        parse_profile(json.dumps(BAD[fault]))
