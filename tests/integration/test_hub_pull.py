"""What is pulled, from where, and what may be asked for."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from fake_hub import TOKEN, FakeHub
from hub_profiles import CONTENT, FILE, NOWHERE, OWN, REPO, npz, pull, refusal

from sencache.hub import exchange
from sencache.hub.download import Hub
from sencache.hub.exchange import pull_profile
from sencache.hub.official import OFFICIAL

pytestmark = pytest.mark.usefixtures("no_telemetry")


def test_a_pulled_profile_knows_where_it_comes_from(server: FakeHub, hub: Hub, revision: str) -> None:
    seen: list[tuple[int, int]] = []
    pulled = pull_profile(
        FILE, REPO, revision, unlisted=True, hub=hub, on_bytes=lambda *now: seen.append(now)
    )
    assert pulled == OWN and pulled.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (pulled.origin, pulled.repo, pulled.revision) == (FILE, REPO, revision)
    assert server.tokens == [None] * len(server.requests)
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    again = pull(replace(hub, endpoint="http://127.0.0.1:9"), revision)
    assert again == OWN and again.repo == REPO, "a kept copy needs no Hub"


def test_large_files_come_from_the_store_without_the_token(server: FakeHub, hub: Hub) -> None:
    revision = server.add(REPO, {FILE: CONTENT}, large={FILE}, private=True)
    assert pull(replace(hub, token=TOKEN), revision) == OWN
    by_path = dict(zip((path for _, path in server.requests), server.tokens, strict=True))
    stored = [path for path in by_path if path.startswith("store")]
    assert len(stored) == 1 and by_path[stored[0]] is None
    assert {token for path, token in by_path.items() if path not in stored} == {f"Bearer {TOKEN}"}


def test_an_official_file_is_imported(server: FakeHub, hub: Hub) -> None:
    revision = server.add(OFFICIAL, {"sensitivity_wan21.npz": npz()})
    pulled = pull_profile("sensitivity_wan21.npz", revision=revision, hub=hub)
    assert pulled.provenance.kind == "imported" and revision in pulled.provenance.source
    assert pulled.model.architecture == "wan" and pulled.shape and pulled.shape.elements == 2_096_640
    assert (pulled.repo, pulled.revision) == (OFFICIAL, revision)


def test_a_listed_repository_has_only_its_listed_files(
    hub: Hub, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "LISTED", {REPO: (FILE,)})
    assert pull_profile(FILE, REPO, hub=hub).revision == revision
    assert "choose from tiny.json" in refusal(lambda: pull_profile("other.json", REPO, hub=hub))


@pytest.mark.parametrize(
    ("file", "repo", "revision", "unlisted", "said"),
    [
        (FILE, REPO, NOWHERE, False, "not a listed repository"),
        ("other.npz", OFFICIAL, NOWHERE, False, "choose from sensitivity_wan21.npz"),
        (FILE, REPO, "main", True, "'main'"),
        (FILE, REPO, "0" * 39, True, "40 hexadecimal"),
        (FILE, "no-owner", NOWHERE, True, "'no-owner'"),
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
