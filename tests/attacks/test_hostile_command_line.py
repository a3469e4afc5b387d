"""Hostile files at the command line: exit code 2, one line, nothing written, no model loaded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import hostile_archives
import hostile_profiles
import pytest

from sencache.cli import commands as cli

STATED = (
    *("--model", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    *("--shift", "5", "--latent", "16x21x60x104", "--out", "out/theirs.json"),
)
COMMANDS = {
    "validate": (hostile_profiles.CASES, ("profiles", "validate", "FILE")),
    "compare": (
        hostile_profiles.CASES,
        ("compare", "--prompt", "a red circle", "--out", "out", "--profile", "FILE"),
    ),
    "import-npz": (hostile_archives.CASES, ("profiles", "import-npz", "FILE", *STATED)),
}
TAKES_JSON = {"compare", "import-npz"}


def sampled(cases: dict[str, tuple[bytes, str]]) -> list[str]:
    """One case of each code; each is refused with its own below the command line."""
    return sorted({code: name for name, (_, code) in cases.items()}.values())


SAMPLES = [(command, name) for command, (cases, _) in COMMANDS.items() for name in sampled(cases)]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sencache.models.model.load", lambda *_: pytest.fail("a model was loaded"))


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "argv", ["sencache", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize(("command", "name"), SAMPLES)
def test_it_is_refused_in_one_line(
    command: str,
    name: str,
    nothing_stays: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases, arguments = COMMANDS[command]
    content, code = cases[name]
    (nothing_stays / "FILE").write_bytes(content)
    assert run([*arguments], monkeypatch) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert said.err.rstrip("\n").isprintable()
    if command in TAKES_JSON:
        assert run([*arguments, "--json"], monkeypatch) == 2
        said = capsys.readouterr()
        answer = json.loads(said.err)
        assert (said.out, answer["code"], set(answer)) == ("", code, {"error", "code"})
    assert os.listdir(nothing_stays) == ["FILE"]


@pytest.mark.parametrize(
    ("command", "place"), [("validate", "/dev/zero"), ("compare", "nowhere"), ("import-npz", "pipe")]
)
def test_no_file_is_refused_in_one_line(
    command: str,
    place: str,
    nothing_stays: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.mkfifo(nothing_stays / "pipe")
    arguments = [place if argument == "FILE" else argument for argument in COMMANDS[command][1]]
    assert run(arguments, monkeypatch) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert os.listdir(nothing_stays) == ["pipe"]
