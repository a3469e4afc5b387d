"""A push makes one commit that can be pulled; what fails changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import huggingface_hub
import pytest
import yaml
from fake_hub import TOKEN, FakeHub, Fault, Handler
from hub_profiles import CONTENT, OWN, REPO, npz, page, pull, refusal, status

from sencache.hub.card import MARK
from sencache.hub.download import Hub
from sencache.hub.exchange import Pushed, pull_profile, push_profile
from sencache.hub.official import OFFICIAL
from sencache.profiles.profile import Profile

pytestmark = pytest.mark.usefixtures("no_telemetry")


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


def test_a_second_profile_stands_beside_the_first_or_replaces_it(server: FakeHub, hub: Hub) -> None:
    other = OWN.model_copy(update={"dtype": "bfloat16"})
    push(hub)
    server.repos[REPO].commit({"notes.json": b'{"a": 1}', "data.csv": b"1"})
    second = push(hub, other, "second")
    present = server.repos[REPO].commits[second.revision]
    assert {"tiny.json", "tiny.svg", "second.json", "second.svg", "notes.json", "data.csv"} < set(present)
    card = present["README.md"].decode()
    assert OWN.sha256 in card and other.sha256 in card and card.count("\n## ") == 3
    assert pull(hub, second.revision) == OWN and pull(hub, second.revision, "second.json") == other
    third = push(hub, other)
    card = server.repos[REPO].commits[third.revision]["README.md"].decode()
    assert OWN.sha256 not in card and pull(hub, third.revision) == other


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
        ("/commit/", status(412), "answered 412, the repository was changed meanwhile"),
        ("/commit/", page, "not that of a Hub"),
        ("/commit/", lambda h: h.json({}), "not that of a Hub"),
        ("/api/repos/create", page, "not that of a Hub"),
        ("/api/datasets/", status(500), "answered 500"),
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
