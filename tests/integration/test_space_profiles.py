"""What a Space has of profiles when it starts: pulled from the Hub, told, and used for what they serve."""

from __future__ import annotations

import errno
import shutil
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import huggingface_hub.constants
import pytest
from fake_hub import FakeHub, Handler
from hub_profiles import CONTENT, FILE, OWN, REPO, npz

from sencache.app import shelf
from sencache.app.events import Done
from sencache.app.offer import describe
from sencache.app.pages import own_profiles, page
from sencache.app.pages.controls import build_controls
from sencache.app.request import make_request, plan_request
from sencache.app.service import ComparisonService
from sencache.comparison.report import load_report
from sencache.comparison.verify import profiles_at_hand, verify
from sencache.hub.download import Hub
from sencache.hub.official import OFFICIAL

pytestmark = pytest.mark.usefixtures("no_telemetry", "space")
WAN = "sensitivity_wan21.npz"
LANES = {"sencache", "sencache:repair=replay"}
# No published profile has a table.
FITTED = "sencache:forecast=fitted:repair=replay"


@pytest.fixture
def space(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Space of Wan 2.1 1.3B with the client's own settings, just before it starts."""
    monkeypatch.setattr(shelf, "Hub", lambda: Hub(server.endpoint))
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("MODEL_ID", "wan-1.3b")
    monkeypatch.delenv("SENCACHE_PROFILES")
    shelf._pull_once.cache_clear()


def started() -> dict[str, Any]:
    """What a new process offers for its model."""
    shelf._pull_once.cache_clear()
    (model,) = describe()["models"]
    return model


# ---- the authors' file


def test_the_authors_file_serves_sencache_at_the_commit_that_is_told(server: FakeHub) -> None:
    commit = server.add(OFFICIAL, {WAN: npz()})
    model = started()
    assert model["unserved"] == [FITTED] and {*model["preselected"], *model["spared"]} >= LANES
    assert "sencache" in model["preselected"]
    assert model["pulled"] == [f"SenCache by {WAN} of {OFFICIAL} at commit {commit}"]
    assert server.tokens == [None] * len(server.requests)
    # Asked once a process: what is looked up later is what was shown.
    asked = len(server.requests)
    server.repos[OFFICIAL].commit({WAN: npz(91)})
    profiles = plan_request(make_request(prompt="x", methods=["sencache", "magcache"])).profiles
    assert len(server.requests) == asked
    first, own = profiles
    assert (first.origin, first.repo, first.revision, first.serves) == (WAN, OFFICIAL, commit, ("sencache",))
    assert own.serves == ("magcache", "teacache")


def test_without_the_hub_the_copy_of_the_last_commit_serves(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(OFFICIAL, {WAN: npz()})
    started()
    # Another file of the dataset changed since; then the network is gone.
    commit = server.repos[OFFICIAL].commit({"README.md": b"new"})
    started()
    monkeypatch.setattr(shelf, "Hub", lambda: Hub("http://127.0.0.1:9"))
    model = started()
    assert model["unserved"] == [FITTED]
    (told,) = model["pulled"]
    assert commit in told and "the copy kept here is used: cannot find the newest commit" in told


def cut(handler: Handler) -> bool:
    if handler.command == "GET" and "/resolve/" in handler.path:
        handler.answer(200, npz()[:-9], Content_Length=str(len(npz())))
        handler.close_connection = True
    return handler.close_connection


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("content", "fault", "write", "said"),
    [
        ({WAN: b"PK\x03\x04 no archive"}, None, Path.write_bytes, f"{WAN} is no"),
        ({WAN: npz(5)}, None, Path.write_bytes, "has 50 timesteps from 999 to 92"),
        ({WAN: npz()}, cut, Path.write_bytes, "the Hub cannot be reached"),
        ({WAN: npz()}, None, full, "(No space left on device); make room"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_the_rest_runs(
    server: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    content: dict[str, bytes],
    fault: Any,
    write: Any,
    said: str,
) -> None:
    server.add(OFFICIAL, content)
    server.fault = fault
    monkeypatch.setattr(Path, "write_bytes", write)
    model = started()
    (told,) = model["pulled"]
    assert told.startswith("SenCache has no profile: ") and said in told and "\n" not in told
    assert set(model["unserved"]) == {*LANES, FITTED} and {"magcache", "control"} <= set(model["preselected"])


# ---- what an owner names


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a/b@xyz", "'xyz' is not a full commit hash"),
        ("a/b:x:y", "write owner/name[@commit][:file]"),
        (",".join(["a/b"] * 17), "17 sources of profiles are too many"),
    ],
)
def test_a_list_that_cannot_be_ends_the_start_in_one_sentence(
    value: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: FakeHub
) -> None:
    monkeypatch.setenv("SENCACHE_PROFILES", value)
    with pytest.raises(SystemExit) as ended:
        page.start()
    (told,) = caplog.messages
    assert ended.value.code == 2 and said in told and told.startswith("SENCACHE_PROFILES cannot be used")
    assert server.requests == []


def test_a_strangers_profile_is_checked_and_found_among_other_files(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OWN.model.model_copy(update={"id": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"})
    measured = OWN.model_copy(update={"model": model})
    always = {"slow": {"magcache": {"threshold": 1e9, "max_reuses": 1000}}}
    greedy = measured.model_copy(update={"presets": always})
    packed = {"a.json": b"{}", "b.json": greedy.to_json().encode(), "c.json": measured.to_json().encode()}
    commit = server.add(REPO, {**packed, "folder/d.json": b"{}", "README.md": b""})
    monkeypatch.setenv("SENCACHE_PROFILES", f"{REPO}, {OFFICIAL}")
    first, second = started()["pulled"]
    assert first == f"SenCache and MagCache and TeaCache by c.json of {REPO} at commit {commit}"
    assert second.startswith(f"{OFFICIAL} is not used: ") and "no such repository" in second
    monkeypatch.setenv("SENCACHE_PROFILES", f"{REPO}@{commit}:b.json")
    (told,) = started()["pulled"]
    assert "SenCache has no profile: " in told and "would reuse every step" in told


def test_a_profile_of_another_checkpoint_says_so_and_one_of_another_architecture_is_not_used(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_ID", "wan-14b")
    server.add(OFFICIAL, {WAN: npz()})
    model = started()
    assert model["unserved"] == [FITTED] and "measured on another checkpoint, Wan-AI/Wan2.1-T2V-1.3B" in str(
        model
    )
    monkeypatch.setenv("MODEL_ID", "ltx")
    commit = server.add(REPO, {FILE: CONTENT})
    monkeypatch.setenv("SENCACHE_PROFILES", f"{REPO}@{commit}:{FILE}")
    (told,) = started()["pulled"]
    assert told.startswith("SenCache has no profile: ") and "cannot serve a ltx model" in told


def test_a_run_records_the_commit_and_verifies_from_the_copy_kept(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SenCache by the pulled profile, MagCache by the model's own; code and archive hold what is needed."""
    monkeypatch.setenv("MODEL_ID", "tiny-wan")
    assert OWN.sensitivity is not None
    # As tiny-wan's own, with other sensitivities and nothing else.
    table = OWN.sensitivity.model_copy(
        update={"alpha_x": tuple(alpha / 2 for alpha in OWN.sensitivity.alpha_x)}
    )
    alone = {"magcache": None, "teacache": None, "presets": {}, "preset_nfe": {}, "sensitivity": table}
    pulled = OWN.model_copy(update=alone)
    commit = server.add(REPO, {FILE: pulled.to_json().encode()})
    monkeypatch.setenv("SENCACHE_PROFILES", REPO)
    asked = {"prompt": "a red circle", "methods": ["sencache", "magcache"], "steps": 6, "preset": "slow"}
    small = {"height": 32, "width": 32, "frames": 5}
    for event in ComparisonService().run(plan_request(make_request(**asked, **small))):
        if isinstance(event, Done):
            shutil.copytree(event.folder, tmp_path / "run")
    report = load_report(tmp_path / "run" / "report.json")
    used = {lane.method: lane.profile for lane in report.lanes if lane.profile}
    origin = {"path": FILE, "repo": REPO, "revision": commit, "sha256": pulled.sha256}
    assert used["sencache"].model_dump() == origin
    assert (used["magcache"].repo, used["magcache"].sha256) == (None, OWN.sha256)
    # The preset is that of the model's own profile: the pulled one has none.
    lane = next(lane for lane in report.lanes if lane.method == "sencache")
    assert lane.config["tolerance"] == OWN.presets["slow"]["sencache"]["tolerance"]
    assert verify(report, profiles_at_hand()) == []
    with zipfile.ZipFile(tmp_path / "run" / "comparison.zip") as archive:
        assert archive.read("profile.json") == pulled.to_json().encode()
    monkeypatch.chdir(tmp_path / "run")
    space: dict[str, Any] = {}
    assert isinstance(event, Done)
    exec(event.snippets["sencache"], space)
    assert [r.score for r in space["trace"]] == [r.score for r in lane.trace]
    shutil.rmtree(tmp_path / "assets")
    assert verify(report, profiles_at_hand(folder=tmp_path / "run")) == []


# ---- what a visitor pulls


def test_a_visitor_pulls_for_this_visit_alone(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The newest commit is shown, and what is asked for with it says where the profile came from."""
    monkeypatch.setattr(own_profiles, "VISITORS", Hub(server.endpoint, keeps=False))
    monkeypatch.setenv("SENCACHE_PROFILES", "")
    commit = server.add(OFFICIAL, {WAN: npz()})
    with gr.Blocks(analytics_enabled=False):
        controls = build_controls(describe())
    asking, (own, name, told) = own_profiles.pull(f" {OFFICIAL} ", "wan", {})
    assert asking[1] is None and commit in told["text"] and not told["bad"]
    values = {**{field: component.value for field, component in controls.fields.items()}, "profile": name}
    ask = controls.request(*values.values(), *(knob.field.value for knob in controls.knobs), own)
    chosen = plan_request(ask.model_copy(update={"methods": ("sencache",)})).profiles[0]
    assert (chosen.origin, chosen.repo, chosen.revision) == (WAN, OFFICIAL, commit)
    assert not (tmp_path / "assets").exists()
    for text, said in (
        (f"{OFFICIAL}:{WAN}@main", "is not a source of profiles"),
        (f"{OFFICIAL}:sensitivity_ltx.npz", "there is no such file"),
    ):
        *_, (held, none, wrong) = own_profiles.pull(text, "wan", own)
        assert held == own and none is None and wrong["bad"] and said in str(wrong["text"])
