"""What needs no model: lists, schemas, and help that explains every option."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import ENVIRONMENT, Program, assert_one_line, bundled, written

from sencache.cli import commands as cli
from sencache.policies.loading import parse_profile
from sencache.profiles.library import bundled_profile

HEAVY = {"torch", "diffusers", "transformers", "numpy", "lpips", "torchvision", "gradio", "accelerate"}
pytestmark = pytest.mark.usefixtures("one_thread")


# ---- what needs no model


def test_models_lists_them(run: Program) -> None:
    answer = run("models")
    assert (answer.code, answer.err) == (0, "")
    assert "tiny-wan" in answer.out and "apache-2.0" in answer.out
    [entry] = [entry for entry in json.loads(run("models", "--json").out) if entry["key"] == "tiny-wan"]
    assert entry["licence"] == "apache-2.0" and "bundled" in entry["summary"]


def test_profiles_list_and_show(run: Program) -> None:
    profile = bundled()
    answer = run("profiles", "list")
    assert answer.code == 0
    assert "tiny-wan.unipc-50" in answer.out and profile.sha256[:12] in answer.out
    entry = {"name": "tiny-wan.unipc-50", "model": "tiny-wan", "sha256": profile.sha256}
    assert entry in json.loads(run("profiles", "list", "--json").out)
    for name in ("tiny-wan.unipc-50", str(bundled_profile("tiny-wan.unipc-50"))):
        assert parse_profile(run("profiles", "show", name).out).sha256 == profile.sha256
    there_are = "no bundled profile 'nothing'; there are cogvideox-2b, "
    assert_one_line(run("profiles", "show", "nothing"), there_are)


def test_unknown_names_are_refused(run: Program, tmp_path: Path) -> None:
    assert_one_line(run("schema", "video"), "no schema 'video'; choose report or profile")
    assert_one_line(run("verify", tmp_path / "none.json"), "cannot read report")
    assert_one_line(run("verify", tmp_path), "cannot read report")
    assert_one_line(run("verify", written(tmp_path / "x.json", "{}")), "x.json is not a sencache.report/1")


# ---- help


def commands() -> Iterator[tuple[list[str], Any]]:
    def walk(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, [*path, name])

    return walk(typer.main.get_command(cli.app), [])


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_help_explains_every_option(run: Program, path: list[str]) -> None:
    command = next(command for found, command in commands() if found == path)
    answer = run(*path, "--help")
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", answer.out).split())
    assert (answer.code, answer.err) == (0, "")
    assert command.help and command.help.split("\n")[0].split(".")[0] in text
    for parameter in command.params:
        assert parameter.help, parameter.name
        for name in parameter.opts:
            assert name.lstrip("-") in text.replace("_", "-").lower() or name in text
    for name, inner in getattr(command, "commands", {}).items():
        assert name in text and inner.help


def test_help_loads_nothing_heavy() -> None:
    script = f"""
import contextlib, io, sys
from sencache.cli import commands as cli
for path in {[path for path, _ in commands()]!r}:
    sys.argv = ["sencache", *path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main()
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    loaded = set(done.stdout.split())
    assert "typer" in loaded and not loaded & HEAVY
