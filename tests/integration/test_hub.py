"""The Hub, through its real client: what comes back, what every failure says, what a push leaves there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import fake_hub
import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest
import yaml
from fake_hub import TOKEN, FakeHub, Fault, Handler

import sencache.hub.exchange
from sencache import comparison
from sencache.errors import SencacheError
from sencache.hub.card import MARK
from sencache.hub.download import Hub
from sencache.hub.exchange import Listed, Pushed, pull_profile, push_profile
from sencache.hub.official import OFFICIAL
from sencache.library import bundled_profile
from sencache.models import model as models
from sencache.plan import parse_lanes
from sencache.profile import Profile, load_profile, parse_profile
from sencache.report import ProfileRef
from sencache.schema import Request

REPO, FILE = "someone/profiles", "tiny.json"
OWN = load_profile(bundled_profile("tiny-wan.unipc-50"))
CONTENT = OWN.to_json().encode()
NOWHERE = "0" * 40


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would ask the real Hub whose program this is."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with fake_hub.running() as hub:
        yield hub


@pytest.fixture
def revision(server: FakeHub) -> str:
    return server.add(REPO, {FILE: CONTENT})


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Hub:
    # Long enough for a loaded machine, far shorter than the answers that never come.
    return Hub(server.endpoint, tmp_path / "kept", timeout=10.0, deadline=30.0)


def pull(hub: Hub, revision: str, file: str = FILE, repo: str = REPO) -> Profile:
    return pull_profile(file, repo, revision, unlisted=True, hub=hub)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def refusal(action: Callable[[], object]) -> str:
    """What is said: one sentence on one line."""
    with pytest.raises(SencacheError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


# ---- pulling


def test_a_pulled_profile_knows_where_it_comes_from(server: FakeHub, hub: Hub, revision: str) -> None:
    pulled = pull(hub, revision)
    assert pulled == OWN and pulled.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (pulled.origin, pulled.repo, pulled.revision) == (FILE, REPO, revision)
    assert server.tokens == [None] * len(server.requests)


def test_a_kept_copy_needs_no_hub(server: FakeHub, hub: Hub, revision: str) -> None:
    pull(hub, revision)
    asked = len(server.requests)
    nowhere = replace(hub, endpoint="http://127.0.0.1:9")
    again = pull(nowhere, revision)
    assert again == OWN and again.repo == REPO and len(server.requests) == asked


def test_progress_is_told(hub: Hub, revision: str) -> None:
    seen: list[tuple[int, int]] = []
    pull_profile(FILE, REPO, revision, unlisted=True, hub=hub, on_bytes=lambda *now: seen.append(now))
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)


def test_large_files_come_from_the_store_without_the_token(server: FakeHub, hub: Hub) -> None:
    revision = server.add(REPO, {FILE: CONTENT}, large={FILE}, private=True)
    assert pull(replace(hub, token=TOKEN), revision) == OWN
    by_path = dict(zip((path for _, path in server.requests), server.tokens, strict=True))
    stored = [path for path in by_path if path.startswith("store")]
    assert len(stored) == 1 and by_path[stored[0]] is None
    assert {token for path, token in by_path.items() if path not in stored} == {f"Bearer {TOKEN}"}


def npz(last: int = 92) -> bytes:
    archive = io.BytesIO()
    x, t = np.linspace(1.03, 31.93, 50), np.linspace(30.9, 1.95, 50)
    timesteps = np.linspace(999, last, 50).astype(np.int64)
    np.savez(archive, timesteps=timesteps, J_x_norm=x.astype("f4"), J_t_norm=t.astype("f4"))
    return archive.getvalue()


def test_an_official_file_is_imported(server: FakeHub, hub: Hub) -> None:
    revision = server.add(OFFICIAL, {"sensitivity_wan21.npz": npz()})
    pulled = pull_profile("sensitivity_wan21.npz", revision=revision, hub=hub)
    assert pulled.provenance.kind == "imported" and revision in pulled.provenance.source
    assert pulled.model.architecture == "wan" and pulled.shape and pulled.shape.elements == 2_096_640
    assert (pulled.repo, pulled.revision) == (OFFICIAL, revision)


def test_a_listed_repository_has_its_own_commit(
    server: FakeHub, hub: Hub, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sencache.hub.exchange, "LISTED", {REPO: Listed(REPO, (FILE,), revision)})
    assert pull_profile(FILE, REPO, hub=hub).revision == revision
    assert "choose from tiny.json" in refusal(lambda: pull_profile("other.json", REPO, hub=hub))
    newer = server.repos[REPO].commit({FILE: CONTENT.replace(b"float32", b"float16")})
    assert f"is taken at commit {revision}" in refusal(lambda: pull_profile(FILE, REPO, newer, hub=hub))
    assert pull(hub, newer).dtype == "float16"


def test_the_list_names_only_pinned_commits_or_none() -> None:
    for repo, entry in sencache.hub.exchange.LISTED.items():
        assert repo == entry.repo and entry.files
        assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)


@pytest.mark.parametrize(
    ("file", "repo", "revision", "unlisted", "said"),
    [
        (FILE, REPO, NOWHERE, False, "not a listed repository"),
        ("sensitivity_wan21.npz", OFFICIAL, None, False, "--revision"),
        ("other.npz", OFFICIAL, NOWHERE, False, "choose from sensitivity_wan21.npz"),
        (FILE, REPO, None, True, "--revision"),
        (FILE, REPO, "main", True, "'main'"),
        (FILE, REPO, "0" * 39, True, "40 hexadecimal"),
        (FILE, "no-owner", NOWHERE, True, "'no-owner'"),
        (FILE, "../../etc", NOWHERE, True, "owner/name"),
        ("../x.json", REPO, NOWHERE, True, "'../x.json'"),
        ("a/b.json", REPO, NOWHERE, True, "'a/b.json'"),
        ("x.pkl", REPO, NOWHERE, True, ".json or .npz"),
        ("x.json\n", REPO, NOWHERE, True, ".json or .npz"),
    ],
)
def test_what_is_not_asked_for_properly_reaches_no_network(
    server: FakeHub, hub: Hub, file: str, repo: str, revision: str | None, unlisted: bool, said: str
) -> None:
    asked = refusal(lambda: pull_profile(file, repo, revision, unlisted=unlisted, hub=hub))
    assert said in asked and server.requests == []


# ---- failures: one sentence that names file, repository and remedy; one try; nothing kept


def on(method: str, act: Callable[[Handler], object]) -> Fault:
    def fault(handler: Handler) -> bool:
        if handler.command == method:
            act(handler)
            return True
        return False

    return fault


def status(code: int, **headers: str) -> Callable[[Handler], object]:
    return lambda handler: handler.answer(code, b"{}", **headers)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "no such repository, or it is private"),
        (403, "access is denied"),
        (404, "answered 404"),
        (429, "too many requests"),
        (500, "answered 500"),
        (503, "try again later"),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_refused_request_is_made_once(
    server: FakeHub, hub: Hub, revision: str, method: str, code: int, said: str
) -> None:
    server.fault = on(method, status(code, Retry_After="3600"))
    text = refusal(lambda: pull(hub, revision))
    assert said in text and f"{FILE} of {REPO} at {revision[:8]}" in text
    assert [m for m, _ in server.requests] == ["HEAD", "GET"][: 1 if method == "HEAD" else 2]
    assert files(hub.cache or Path()) == []


def test_what_is_missing_is_named(server: FakeHub, hub: Hub, revision: str) -> None:
    assert "there is no such repository" in refusal(lambda: pull(hub, revision, repo="someone/else"))
    assert "no such commit" in refusal(lambda: pull(hub, NOWHERE))
    assert "no such file" in refusal(lambda: pull(hub, revision, file="none.json"))
    server.repos[REPO].gated = True
    assert "is gated; accept its terms" in refusal(lambda: pull(hub, revision))
    server.repos[REPO].gated, server.repos[REPO].private = False, True
    assert "it is private" in refusal(lambda: pull(hub, revision))
    assert pull(replace(hub, token=TOKEN), revision) == OWN


def stall(handler: Handler) -> None:
    handler.hub.over.wait(20)


def trickle(handler: Handler) -> None:
    """Always one more byte before the timeout of a single answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    for byte in CONTENT[:200]:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.hub.over.wait(0.1):
            return


def cut(handler: Handler) -> None:
    handler.answer(200, CONTENT[:-9], Content_Length=str(len(CONTENT)))
    handler.close_connection = True


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    chunk = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))
    while not handler.hub.over.is_set():
        handler.wfile.write(chunk)


def page(handler: Handler) -> None:
    handler.answer(200, b"<html>Sign in to the guest network</html>", Content_Type="text/html")


def elsewhere(handler: Handler) -> None:
    handler.answer(302, Location=f"http://localhost:{handler.hub.endpoint.rpartition(':')[2]}/x")


def around(handler: Handler) -> None:
    handler.answer(302, Location=handler.path)


def described(size: int | None = None, etag: str | None = None, commit: str | None = None) -> object:
    """A HEAD answer for the file, with one header changed."""

    def act(handler: Handler) -> None:
        handler.answer(
            200,
            X_Repo_Commit=commit or handler.path.split("/")[5],
            ETag=f'"{etag or fake_hub.git_hash(CONTENT)}"',
            Content_Length=str(len(CONTENT) if size is None else size),
        )

    return act


@pytest.mark.parametrize(
    ("method", "act", "said"),
    [
        ("HEAD", stall, "did not answer within 1 s"),
        ("GET", stall, "did not answer within 1 s"),
        ("GET", trickle, "did not arrive within 2 s"),
        ("GET", cut, "cannot be reached"),
        ("GET", lambda h: h.answer(200, CONTENT[:-9]), "shorter than"),
        ("GET", lambda h: h.answer(200, CONTENT + b" "), "longer than"),
        ("GET", endless, "longer than"),
        ("GET", lambda h: h.answer(200, CONTENT[:-2] + b" \n"), "has the hash"),
        ("HEAD", page, "not that of a Hub"),
        ("GET", page, "shorter than"),
        ("HEAD", elsewhere, "not that of a Hub"),
        ("GET", elsewhere, "redirected to http://localhost, not the Hub"),
        ("GET", around, "redirected more than 5 times"),
        ("HEAD", described(size=1_000_001), "1,000,001 bytes, more than the 1,000,000"),
        ("HEAD", described(commit="1" * 40), "with commit '1111"),
        ("HEAD", described(etag="not-a-hash"), "not that of a Hub"),
        ("GET", lambda h: h.answer(200, b"", Content_Length="x"), "cannot be reached"),
    ],
)
def test_a_bad_answer_is_refused_and_not_kept(
    server: FakeHub, hub: Hub, revision: str, method: str, act: Callable[[Handler], object], said: str
) -> None:
    server.fault = on(method, act)
    if act in (stall, trickle):
        hub = replace(hub, timeout=1.0, deadline=2.0)
    text = refusal(lambda: pull(hub, revision))
    assert said in text and FILE in text and REPO in text
    assert not (hub.cache or Path()).exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "Invalid JSON"),
        (b"[]", "the file is '[]'"),
        (CONTENT.replace(b'"wan"', b'"unet"'), "model.architecture is 'unet'"),
        (b"", "Invalid JSON"),
    ],
)
def test_content_that_is_no_profile_is_refused(server: FakeHub, hub: Hub, content: bytes, said: str) -> None:
    revision = server.add(REPO, {FILE: content})
    text = refusal(lambda: pull(hub, revision))
    assert said in text and REPO in text and files(hub.cache or Path()) == []


def test_a_damaged_copy_says_how_to_get_a_new_one(server: FakeHub, hub: Hub, revision: str) -> None:
    pull(hub, revision)
    (copy,) = files(hub.cache or Path())
    copy.write_bytes(CONTENT[:100])
    assert f"delete {copy}" in refusal(lambda: pull(hub, revision))
    copy.unlink()
    assert pull(hub, revision) == OWN


def test_without_network_it_says_so(hub: Hub, revision: str) -> None:
    text = refusal(lambda: pull(replace(hub, endpoint="http://127.0.0.1:9"), revision))
    assert "the Hub cannot be reached; check the network" in text


def test_switched_off_it_says_so(
    server: FakeHub, hub: Hub, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refusal(lambda: pull(hub, revision))
    assert server.requests == []


# ---- pushing


def svg(profile: Profile) -> str:
    return f"<svg><!-- {profile.sha256} --></svg>"


def push(hub: Hub, profile: Profile = OWN, name: str = "tiny", **options: bool) -> Pushed:
    return push_profile(profile, REPO, name, svg, hub=replace(hub, token=TOKEN), **options)


def front_matter(card: bytes) -> dict[str, object]:
    _, matter, _ = card.decode().split("---\n", 2)
    return yaml.safe_load(matter)


def test_a_push_makes_one_commit_that_can_be_pulled(server: FakeHub, hub: Hub) -> None:
    pushed = push(hub)
    (commit,) = server.commits
    assert set(commit["files"]) == {"tiny.json", "tiny.svg", "README.md"}
    assert commit["files"]["tiny.json"] == CONTENT
    assert commit["files"]["tiny.svg"] == svg(OWN).encode()
    assert OWN.sha256 in commit["files"]["README.md"].decode()
    assert front_matter(commit["files"]["README.md"])["license"] == "apache-2.0"
    assert pushed.revision == server.repos[REPO].head and pushed.revision in pushed.url
    assert not server.repos[REPO].private
    assert pull(hub, pushed.revision) == OWN


def test_a_repository_can_be_private(server: FakeHub, hub: Hub) -> None:
    push(hub, private=True)
    assert server.repos[REPO].private


def test_a_second_profile_stands_beside_the_first(server: FakeHub, hub: Hub) -> None:
    other = OWN.model_copy(update={"dtype": "bfloat16"})
    push(hub)
    server.repos[REPO].commit({"notes.json": b'{"a": 1}', "data.csv": b"1"})
    second = push(hub, other, "second")
    present = server.repos[REPO].commits[second.revision]
    assert {"tiny.json", "tiny.svg", "second.json", "second.svg", "notes.json", "data.csv"} < set(present)
    card = present["README.md"].decode()
    assert OWN.sha256 in card and other.sha256 in card and card.count("\n## ") == 3
    assert pull(hub, second.revision) == OWN and pull(hub, second.revision, "second.json") == other


def test_a_profile_is_replaced_under_its_name(server: FakeHub, hub: Hub) -> None:
    first = push(hub)
    other = OWN.model_copy(update={"dtype": "bfloat16"})
    second = push(hub, other)
    card = server.repos[REPO].commits[second.revision]["README.md"].decode()
    assert other.sha256 in card and OWN.sha256 not in card
    assert pull(hub, first.revision) == OWN and pull(hub, second.revision) == other


def test_a_card_of_somebody_elses_is_not_lost(server: FakeHub, hub: Hub) -> None:
    server.add(REPO, {"README.md": b"# My data\n"})
    assert "was not written by this program" in refusal(lambda: push(hub))
    assert server.commits == []
    server.repos[REPO].commit({"README.md": f"{MARK}\n".encode()})
    push(hub)


def test_a_push_needs_a_token(server: FakeHub, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    text = refusal(lambda: push_profile(OWN, REPO, "tiny", svg, hub=hub))
    assert "hf auth login" in text and "HF_TOKEN" in text and server.requests == []
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    assert push_profile(OWN, REPO, "tiny", svg, hub=hub).file == "tiny.json"


def test_what_may_not_be_published_is_not(server: FakeHub, hub: Hub) -> None:
    revision = server.add(OFFICIAL, {"sensitivity_wan21.npz": npz()})
    imported = pull_profile("sensitivity_wan21.npz", revision=revision, hub=hub)
    server.requests.clear()
    assert "licence of tiny is unknown" in refusal(lambda: push(hub, imported))
    assert "no name for a profile" in refusal(lambda: push(hub, name="../x"))
    assert server.requests == []


def at(part: str, act: Callable[[Handler], object]) -> Fault:
    def fault(handler: Handler) -> bool:
        if part in handler.path:
            act(handler)
            return True
        return False

    return fault


@pytest.mark.parametrize(
    ("part", "act", "said"),
    [
        ("/commit/", status(403), "answered 403, access is denied"),
        ("/commit/", status(409), "answered 409, the repository was changed meanwhile"),
        ("/commit/", status(412), "answered 412, the repository was changed meanwhile"),
        ("/commit/", status(500), "answered 500"),
        ("/commit/", page, "not that of a Hub"),
        ("/commit/", lambda h: h.json({}), "not that of a Hub"),
        ("/api/repos/create", status(401), "answered 401, the token was not accepted"),
        ("/api/repos/create", status(403), "answered 403, access is denied"),
        ("/api/repos/create", status(500), "answered 500"),
        ("/api/repos/create", page, "not that of a Hub"),
        ("/api/datasets/", status(500), "answered 500"),
        ("/api/datasets/", page, "not that of a Hub"),
    ],
)
def test_a_push_that_fails_says_why_and_changes_nothing(
    server: FakeHub, hub: Hub, part: str, act: Callable[[Handler], object], said: str
) -> None:
    server.fault = at(part, act)
    text = refusal(lambda: push(hub))
    assert said in text and f"put tiny.json onto {REPO}" in text
    assert server.commits == []


def test_a_change_in_between_is_not_overwritten(server: FakeHub, hub: Hub) -> None:
    push(hub)

    def race(handler: Handler) -> bool:
        if "/commit/" in handler.path:
            server.repos[REPO].commit({"theirs.json": CONTENT})
        return False

    server.fault = race
    assert "changed meanwhile" in refusal(lambda: push(hub, name="second"))
    assert "theirs.json" in server.repos[REPO].commits[server.repos[REPO].head]


def test_the_wrong_token_is_told_apart(server: FakeHub, hub: Hub) -> None:
    hub = replace(hub, token="hf_of_another")
    text = refusal(lambda: push_profile(OWN, REPO, "tiny", svg, hub=hub))
    assert "the token was not accepted" in text and server.repos == {}


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
    words = ("pull", FILE, "--repo", REPO, "--revision", revision)
    done = program(tmp_path, server, *words)
    assert done.returncode == 0 and OWN.sha256 in done.stdout, done.stderr
    assert parse_profile((tmp_path / FILE).read_bytes()) == OWN
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


def test_the_program_imports_and_shows(server: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "sensitivity_wan21.npz").write_bytes(npz())
    done = program(tmp_path, server, "import-npz", "sensitivity_wan21.npz")
    profile = load_profile(tmp_path / "sensitivity_wan21.json")
    assert done.returncode == 0 and profile.sha256 in done.stdout
    shown = program(tmp_path, server, "show", "sensitivity_wan21.json", "--html", "page.html")
    assert shown.returncode == 0 and profile.sha256 in shown.stderr
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    wrong = program(
        tmp_path, server, "import-npz", "sensitivity_wan21.npz", "--shift", "8", "--out", "x.json"
    )
    assert wrong.returncode == 2 and "contradicts" in wrong.stderr and not (tmp_path / "x.json").exists()
    assert server.requests == []


# ---- what a comparison says of the profile it used


def test_a_report_names_repository_and_commit(hub: Hub, revision: str) -> None:
    spec = models.model_spec("tiny-wan")
    request = Request(prompt="a red circle", steps=3, height=32, width=32, frames=5, guidance_scale=1.0)
    lanes = parse_lanes("none,sencache", ())
    events = list(comparison.compare(models.load(spec.key), request, lanes, pull(hub, revision)))
    lane = next(lane for lane in events[-1].report.lanes if lane.method == "sencache")
    assert lane.profile == ProfileRef(path=FILE, repo=REPO, revision=revision, sha256=OWN.sha256)
