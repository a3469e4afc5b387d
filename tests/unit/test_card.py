"""The card of a dataset of profiles: valid front matter, true figures, commands that work."""

from __future__ import annotations

import io
import json
import re
import shlex
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from strategies import profile_data, ratio_profile, sensitivity, sensitivity_profile
from typer.testing import CliRunner

import sencache
from sencache.cli import commands as cli
from sencache.hub.card import MARK, dataset_card
from sencache.hub.npz import parse_npz
from sencache.policies.loading import load_profile, parse_profile
from sencache.profiles.constants import ModelId
from sencache.profiles.facts import served
from sencache.profiles.library import bundled_profile
from sencache.profiles.profile import Profile

OWN = load_profile(bundled_profile("tiny-wan.unipc-50"))
REPO = "someone/profiles"


def matter(card: str) -> dict[str, Any]:
    """The front matter as YAML reads it."""
    start, text, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(text)


def with_licence(licence: str) -> Profile:
    return OWN.model_copy(update={"provenance": OWN.provenance.model_copy(update={"licence": licence})})


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)\n```", card, re.S)


@pytest.mark.parametrize(
    ("licences", "expected", "name"),
    [
        (["Apache-2.0"], "apache-2.0", None),
        (["apache-2.0", "cc-by-4.0"], ["apache-2.0", "cc-by-4.0"], None),
        (["none stated"], "other", "none stated"),
        (["apache-2.0", "none stated"], ["apache-2.0", "other"], "none stated"),
    ],
)
def test_licences_the_hub_does_not_know_are_named(
    licences: list[str], expected: Any, name: str | None
) -> None:
    card = dataset_card(REPO, {f"{k}.json": with_licence(text) for k, text in enumerate(licences)})
    assert matter(card)["license"] == expected and matter(card).get("license_name") == name
    data = DatasetCard(card).data
    assert data.pretty_name.endswith("tiny-wan") and data.to_dict()["viewer"] is False
    assert {"sencache", "diffusers"} <= set(data.tags)


def test_it_says_what_each_profile_is() -> None:
    other = OWN.model_copy(update={"dtype": "bfloat16"})
    card = dataset_card(REPO, {"b.json": other, "a.json": OWN})
    assert MARK in card
    sections = re.split(r"^## ", card, flags=re.M)
    assert [section.split("\n")[0] for section in sections[1:]] == ["a", "b", "Limits"]
    for name, profile, section in (("a", OWN, sections[1]), ("b", other, sections[2])):
        assert f"({name}.svg)" in section and profile.sha256 in section and str(profile.dtype) in section
        assert "SenCache, MagCache, TeaCache" in section and "64 × 64, 17 frames" in section
        assert "UniPCMultistepScheduler, 50 steps, flow\\_shift=3.0 |" in section
        assert "8 videos" in section and all(prompt in section for prompt in OWN.calibration.prompts)  # type: ignore[union-attr]


def test_the_spread_is_that_of_the_table() -> None:
    data = profile_data([900, 600, 300], sensitivity=sensitivity([1.0, 2.0, 4.0], [0.5, 0.5, 0.5]))
    data["sensitivity"] |= {"alpha_x_std": [0.1, 0.5, 0.2], "alpha_t_std": None}
    card = dataset_card(REPO, {"p.json": Profile.model_validate(data)})
    # 10 %, 25 % and 5 % of the means.
    assert "Spread of alpha\\_x | standard deviation: median 10.0%, worst timestep 25.0%" in card
    assert "Spread of alpha\\_t | not recorded" in card


def test_presets_say_what_they_cost() -> None:
    spread = {"mean": 24.5, "std": 1.5, "min": 22, "max": 27}
    profile = OWN.model_copy(update={"presets": {"fast": {"magcache": {"threshold": 0.25}, "fixed": {}}}})
    told = Profile.model_validate(
        {**profile.model_dump(by_alias=True), "preset_nfe": {"fast": {"magcache": spread}}}
    )
    card = dataset_card(REPO, {"p.json": told})
    assert "| fast | magcache | threshold=0.25 | 24.5 (22 to 27) |" in card
    assert "| fast | fixed | as by default | not recorded |" in card


@pytest.mark.parametrize(
    ("profile", "methods"),
    [
        (OWN, ["SenCache", "MagCache", "TeaCache"]),
        (sensitivity_profile([900, 300], [1, 1], [1, 1]), ["SenCache"]),
        (ratio_profile([1.0, 0.9]), ["MagCache"]),
    ],
)
def test_its_python_runs(profile: Profile, methods: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(profile) == methods
    (code,) = blocks(dataset_card(REPO, {"p.json": profile}), "python")
    assert len(code.splitlines()) == 3
    attached: list[Any] = []

    def attach(pipe: object, policy: Any) -> Any:
        attached.append(policy)
        return nullcontext()

    monkeypatch.setattr(sencache, "attach", attach)
    monkeypatch.setattr(sencache, "load_profile", lambda path: profile)
    names: dict[str, Any] = {
        "sencache": sencache,
        "prompt": "a cat",
        "pipe": lambda prompt: SimpleNamespace(frames=["video"]),
    }
    exec(code, names)
    assert names["video"] == "video" and type(attached[0]).__name__ == methods[0]
    for setting, value in profile.presets.get("slow", {}).get(methods[0].lower(), {}).items():
        assert getattr(attached[0], setting) == value


def test_its_commands_are_those_of_the_program() -> None:
    shell = "\n".join(blocks(dataset_card(REPO, {"tiny.json": OWN}), "sh")).splitlines()
    commands = [shlex.split(line)[3:] for line in shell]
    assert [words[:2] for words in commands] == [["profiles", "pull"], ["calibrate", "--model"]]
    pull, calibrate = commands
    assert pull[2:] == ["tiny.json", "--repo", REPO, "--revision", "COMMIT", "--out", "tiny.json"]
    known = CliRunner().invoke(cli.app, ["calibrate", "--help"], env={"COLUMNS": "300"}).output
    options = dict(zip(calibrate[1::2], calibrate[2::2], strict=True))
    assert all(option in known for option in options)
    expected = {"--samples": "8", "--seed": "1000", "--steps": "50", "--scheduler": "unipc", "--shift": "3"}
    expected |= {"--dtype": "fp32", "--guidance": "4", "--height": "64", "--frames": "17"}
    assert expected.items() <= options.items()


@pytest.mark.parametrize(("shift", "said"), [(5, "--shift 5 "), (5.5, "--shift 5.5 "), (True, ""), ("5", "")])
def test_a_whole_shift_is_one(shift: Any, said: str) -> None:
    data = json.loads(OWN.to_json())
    data["schedule"]["config"]["flow_shift"] = shift
    profile = parse_profile(json.dumps(data))
    *_, command = blocks(dataset_card(REPO, {"p.json": profile}), "sh")
    assert (said in command) if said else ("--shift" not in command)


def test_what_others_wrote_is_no_markup() -> None:
    evil = "x | y\n\n# big\n<script>alert(1)</script> ![p](http://a/b) `c`\n---\nlicense: mit"
    data = profile_data([900, 300], sensitivity=sensitivity([1, 1], [1, 1]))
    data["provenance"]["source"] = data["schedule"]["scheduler"] = evil
    # No file can name its model so, but the card does not rely on it.
    model = ModelId.model_construct(id=evil, revision=None, architecture="wan")
    profile = Profile.model_validate(data).model_copy(update={"model": model})
    card = dataset_card(REPO, {"p.json": profile})
    body = card.split("\n---\n", 1)[1]
    assert "\n# big" not in body and re.findall(r"(?<!\\)<script|!\[p", body) == []
    assert body.count("\\<script") == 4
    assert matter(card)["license"] == "cc0-1.0" and evil.split("\n")[0] in matter(card)["pretty_name"]
    rows = [line for line in card.splitlines() if line.startswith("|")]
    # Every row of the table keeps its two columns.
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


def test_an_imported_file_says_where_it_is_from() -> None:
    archive = io.BytesIO()
    np.savez(archive, timesteps=np.linspace(999, 19, 50), J_x_norm=np.ones(50), J_t_norm=np.ones(50))
    imported = parse_npz(archive.getvalue(), "sensitivity_cogvid.npz")
    card = dataset_card(REPO, {"p.json": imported})
    assert "imported: Yassaman/SenCache" in card and matter(card)["license_name"] == "unknown"
    assert "not recorded" in card and "Measure it again" not in card
