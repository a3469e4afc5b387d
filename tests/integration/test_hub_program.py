"""The program pulls and pushes with the client's own environment; a report names the commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import Program, assert_one_line
from fake_hub import TOKEN, FakeHub
from hub_profiles import CONTENT, FILE, OWN, REPO, npz, pull

import sencache
from sencache.comparison import compare as comparison
from sencache.comparison.plan import parse_lanes
from sencache.comparison.report import ProfileRef
from sencache.hub.download import Hub
from sencache.models import model as models
from sencache.policies.loading import load_profile, parse_profile
from sencache.schema import Request

pytestmark = pytest.mark.usefixtures("no_telemetry")


# ---- the program, with the client's own environment


def program(folder: Path, server: FakeHub, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(sencache.__file__).parents[1]),
        **settings,
    }
    command = [sys.executable, "-m", "sencache", "profiles", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=60)


def test_the_program_pulls_once_and_then_works_offline(
    server: FakeHub, revision: str, tmp_path: Path
) -> None:
    """The newest commit is taken where none is given, and printed, so that it can be given."""
    words = ("pull", FILE, "--repo", REPO)
    done = program(tmp_path, server, *words)
    assert done.returncode == 0 and OWN.sha256 in done.stdout, done.stderr
    assert f"taken from {FILE} of {REPO} at commit {revision}" in done.stdout
    assert parse_profile((tmp_path / FILE).read_bytes()) == OWN
    words = (*words, "--revision", revision)
    offline = program(tmp_path, server, *words, "--out", "again.json", "--json", HF_HUB_OFFLINE="1")
    said = json.loads(offline.stdout)
    assert (said["repo"], said["revision"], said["sha256"]) == (REPO, revision, OWN.sha256)
    assert (tmp_path / "again.json").read_bytes() == CONTENT


def test_the_program_leaves_nothing_when_it_fails(server: FakeHub, revision: str, tmp_path: Path) -> None:
    server.repos[REPO].private = True
    words = ("pull", FILE, "--repo", REPO, "--revision", revision, "--out", "x/y.json")
    done = program(tmp_path, server, *words, HF_TOKEN=TOKEN)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "private" in done.stderr and server.tokens == [None]
    assert not (tmp_path / "x").exists()
    allowed = program(tmp_path, server, *words, "--own-token", HF_TOKEN=TOKEN)
    assert allowed.returncode == 0 and (tmp_path / "x/y.json").read_bytes() == CONTENT


def test_the_program_pushes_what_it_can_pull(server: FakeHub, tmp_path: Path) -> None:
    words = ("push", "tiny-wan.unipc-50", REPO, "--name", "tiny", "--private", "--json")
    done = program(tmp_path, server, *words, HF_TOKEN=TOKEN)
    said = json.loads(done.stdout)
    assert said["revision"] == server.repos[REPO].head and said["sha256"] == OWN.sha256
    assert server.repos[REPO].private
    drawn = server.repos[REPO].commits[said["revision"]]["tiny.svg"]
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    refused = program(tmp_path, server, *words)
    assert refused.returncode == 2 and "hf auth login" in refused.stderr


def test_the_program_imports_and_shows(run: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sensitivity_wan21.npz").write_bytes(npz())
    done = run("profiles", "import-npz", "sensitivity_wan21.npz")
    profile = load_profile("sensitivity_wan21.json")
    assert done.code == 0 and profile.sha256 in done.out
    shown = run("profiles", "show", "sensitivity_wan21.json", "--html", "page.html")
    assert shown.code == 0 and profile.sha256 in shown.err
    assert "<html" in Path("page.html").read_text(encoding="utf-8")
    wrong = run("profiles", "import-npz", "sensitivity_wan21.npz", "--shift", "8", "--out", "x.json")
    assert_one_line(wrong, "contradicts")
    assert not Path("x.json").exists()


# ---- what a comparison says of the profile it used


def test_a_report_names_repository_and_commit(hub: Hub, revision: str) -> None:
    spec = models.MODELS["tiny-wan"]
    request = Request(prompt="a red circle", steps=3, height=32, width=32, frames=5, guidance_scale=1.0)
    lanes = parse_lanes("none,sencache", ())
    events = list(comparison.compare(models.load(spec.key), request, lanes, pull(hub, revision)))
    lane = next(lane for lane in events[-1].report.lanes if lane.method == "sencache")
    assert lane.profile == ProfileRef(path=FILE, repo=REPO, revision=revision, sha256=OWN.sha256)
