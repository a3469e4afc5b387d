"""From a finished comparison to another Space's page: through a dataset, pinned, bounded and proved."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Program, assert_one_line, tree
from fake_hub import TOKEN, FakeHub, Files
from finished import BUNDLED, OWN, film, finished
from hub_profiles import NOWHERE, refusal

from sencache.app.pages import page
from sencache.app.pages.gallery import cards_of, entry_status
from sencache.app.recorded import Recorded, fetch_recorded, gallery_places
from sencache.gallery import card, datasets
from sencache.gallery.datasets import Pinned, push_card
from sencache.gallery.making import make_card, read_finished
from sencache.hub.download import Hub

pytestmark = pytest.mark.usefixtures("no_telemetry")
REPO = "you/cards"
OFFERED = ("tiny-wan", "tiny-ltx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of a large model, with a profile of its own."""
    folder = tmp_path_factory.mktemp("made")
    clip = film(640, 360)
    finished(folder / "run", clip, OWN, key="wan-1.3b", device="cuda", prompt="a fox in the snow")
    (folder / "fox").mkdir()
    make_card(read_finished(folder / "run"), folder / "fox", "fox")
    return folder / "fox"


def contents(folder: Path, name: str = "fox") -> Files:
    """As they lie in a dataset."""
    return {f"{name}/{path.name}": path.read_bytes() for path in folder.iterdir()}


def shown(hub: Hub, revision: str) -> Recorded:
    return fetch_recorded([Pinned(REPO, revision)], hub)


# ---- the round trip


def test_from_a_comparison_to_the_page_of_another_space(
    run: Program, server: FakeHub, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("sencache.hub.download.Hub", lambda: replace(hub, token=TOKEN))
    report = finished(tmp_path / "run", film(640, 360), OWN, key="wan-1.3b", device="cuda", prompt="a fox")
    answer = run("gallery", "add", tmp_path / "run", "--to", REPO)
    assert (answer.code, answer.err) == (0, "")
    (setting,) = re.findall(r"^SENCACHE_GALLERY=(.*)$", answer.out, re.MULTILINE)
    assert setting == f"{REPO}@{server.repos[REPO].head}"
    (commit,) = server.commits
    assert {path.split("/")[-1] for path in commit["files"]} >= {"README.md", "profile.json", "none.mp4"}

    monkeypatch.setenv("SENCACHE_GALLERY", setting)
    found = fetch_recorded(gallery_places(), hub)
    assert found.problems == ()
    (entry,) = found.entries
    assert entry.report == report and entry.report.digest == report.digest
    (shown_card,) = cards_of(found.entries).cards
    assert shown_card.source == f"recorded on cuda · {REPO}@{server.repos[REPO].head[:8]}"
    said = entry_status(entry, OFFERED)
    assert "wan-1.3b, recorded on cuda" in said and "This Space runs tiny-wan and tiny-ltx" in said
    assert "encoded again (480×270" in said and "numbers are of the original frames" in said


def test_a_dataset_lists_all_its_cards(server: FakeHub, hub: Hub, made: Path, tmp_path: Path) -> None:
    owner = replace(hub, token=TOKEN)
    push_card(card.read_card(made), REPO, hub=owner)
    (tmp_path / "bundled").mkdir()
    other = make_card(read_finished(BUNDLED), tmp_path / "bundled", "bundled")[0]
    pushed = push_card(other, REPO, hub=owner)
    readme = server.repos[REPO].commits[pushed.revision]["README.md"].decode()
    assert "| fox | a fox in the snow |" in readme and "| bundled |" in readme and datasets.MARK in readme
    found = shown(hub, pushed.revision)
    assert [entry.name for entry in found.entries] == ["bundled@1", "fox@1"]

    text = refusal(lambda: push_card(other, REPO, hub=owner))
    assert "holds a card bundled; give another --name, or --replace" in text
    smaller = replace(card.read_card(made), info=other.info)
    head = push_card(smaller, REPO, replaced=True, hub=owner).revision
    present = server.repos[REPO].commits[head]
    assert "bundled/control.mp4" not in present and "bundled/none.mp4" in present


def test_what_is_kept_needs_no_network(server: FakeHub, hub: Hub, made: Path) -> None:
    revision = server.add(REPO, contents(made))
    shown(hub, revision)
    asked = len(server.requests)
    (entry,) = shown(replace(hub, endpoint="http://127.0.0.1:9"), revision).entries
    assert entry.report.request.prompt == "a fox in the snow" and len(server.requests) == asked
    (problem,) = shown(replace(hub, endpoint="http://127.0.0.1:9"), NOWHERE).problems
    assert "cannot be reached" in str(problem) or "did not answer" in str(problem)


def test_nothing_but_a_cards_files_is_fetched_or_shown(server: FakeHub, hub: Hub, made: Path) -> None:
    more = {
        "fox/notes.html": b"<script>",
        "fox/extra.mp4": (made / "none.mp4").read_bytes(),
        "fox/../etc.mp4": b"x",
        "fox/deep/none.mp4": b"x",
        ".hidden/report.json": b"{}",
        "/abs/report.json": b"{}",
        "README.md": b"#",
        "empty/card.json": b"{}",
    }
    revision = server.add(REPO, {**contents(made), **more})
    found = shown(hub, revision)
    (entry,) = found.entries
    assert tree(entry.folder) == {path.name for path in made.iterdir()}
    fetched = {path.split(f"/resolve/{revision}/")[1] for _, path in server.requests if "/resolve/" in path}
    assert fetched == set(contents(made))


# ---- what does not hold is left out, and the rest is shown


def without(name: str) -> Callable[[Files], None]:
    return lambda files: files.pop(name) and None


def put(name: str, content: bytes) -> Callable[[Files], None]:
    return lambda files: files.update({name: content})


def change(name: str, old: bytes, new: bytes) -> Callable[[Files], None]:
    def act(files: Files) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new, 1)

    return act


SPOILED = (
    (change("/report.json", b'"nfe": 25', b'"nfe": 24'), "the report does not hold"),
    (change("/report.json", b'"none.mp4"', b'"../x.mp4"'), "names the video '../x.mp4'"),
    (change("/report.json", b'"none.mp4"', b'"/etc/x.mp4"'), "names the video '/etc/x.mp4'"),
    (put("/report.json", b"{}"), "is not a sencache.report/1"),
    (put("/none.mp4", b"hello"), "none.mp4 is not a video that can be played"),
    (put("/none.mp4", b"x" * (card.MAX_VIDEO + 1)), "more than the 2,000,000"),
    (
        put("/none.mp4", (BUNDLED / "none.mp4").read_bytes()),
        "none.mp4 has 17 frames, the report tells of 5",
    ),
    (without("/none.mp4"), "none.mp4 is missing"),
    (without("/thumbnail.png"), "thumbnail.png is missing"),
    (put("/thumbnail.png", b"<svg/>"), "thumbnail.png is not a PNG image"),
    (without("/profile.json"), "no bundled profile has sha256"),
    (put("/profile.json", b"{}"), "profile.json: "),
    (change("/card.json", b'"frames": 5', b'"frames": 4'), "not 480×270 with 4 frames"),
    (change("/card.json", b'"crf"', b'"evil"'), "is not a sencache.card/1"),
)


def test_a_card_that_does_not_hold_is_left_out_alone(
    server: FakeHub, hub: Hub, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = contents(made)
    for number, (spoil, _) in enumerate(SPOILED):
        card_files = contents(made, "")
        spoil(card_files)
        files |= {f"bad-{number:02}{path}": content for path, content in card_files.items()}
    found = shown(hub, server.add(REPO, files))
    assert [entry.name for entry in found.entries] == ["fox@1"]
    reasons = {problem.what: problem.why for problem in found.problems}
    for number, (_, said) in enumerate(SPOILED):
        why = reasons.pop(f"bad-{number:02} of {REPO}@{server.repos[REPO].head[:8]}")
        assert said in why and "\n" not in why
    assert reasons == {} and {str(problem) for problem in found.problems} <= set(caplog.messages)
    assert found.folder and tree(Path(found.folder.name)) == {
        "fox@1",
        *(f"fox@1/{path.name}" for path in made.iterdir()),
    }


def test_no_more_cards_than_a_page_has_room_for(
    server: FakeHub, hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "MAX_CARDS", 2)
    many = {path: text for name in ("a", "b", "c") for path, text in contents(made, name).items()}
    found = shown(hub, server.add(REPO, many))
    assert [entry.name for entry in found.entries] == ["a@1", "b@1"]
    assert [str(problem) for problem in found.problems] == [
        f"what {REPO}@{server.repos[REPO].head[:8]} holds beyond the first 2 cards is left out: "
        "there are 3; spread them over several places"
    ]
    assert not any("/c/" in path for _, path in server.requests)
    monkeypatch.setattr(card, "MAX_CARD", 1000)
    assert "more than the 1,000 of a card" in shown(hub, server.repos[REPO].head).problems[-1].why


def test_a_dataset_that_cannot_be_had_leaves_the_others(server: FakeHub, hub: Hub, made: Path) -> None:
    revision = server.add(REPO, contents(made), private=True)
    (problem,) = shown(hub, revision).problems
    assert "it is private" in problem.why
    places = [Pinned(REPO, NOWHERE), Pinned(REPO, revision), made.parent]
    found = fetch_recorded(places, replace(hub, token=TOKEN))
    assert [entry.name for entry in found.entries] == ["fox@2", "fox@3"]
    assert "there is no such commit" in found.problems[0].why


def test_fetching_ends_at_its_deadline(
    server: FakeHub, hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "DEADLINE_SECONDS", 0.0)
    revision = server.add(REPO, contents(made))
    (problem,) = shown(hub, revision).problems
    assert "did not arrive within 0 s; start again, what arrived is kept" in problem.why
    assert not any("none.mp4" in path for _, path in server.requests)


# ---- what the variable may say


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("you/cards", "write you/cards@COMMIT with its full hash of 40 digits, as shown under https://"),
        ("you/cards@main", "revision 'main' of you/cards is not a full commit hash"),
        (f"you/cards@{NOWHERE[1:]}", "is not a full commit hash"),
        ("/nowhere/at/all", "'/nowhere/at/all' is neither a folder nor a dataset at a commit"),
        ("../x@" + NOWHERE, "is neither a folder nor a dataset"),
        (f"you/cards@{NOWHERE},nonsense", "'nonsense' is neither"),
    ],
)
def test_an_impossible_value_ends_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str, said: str
) -> None:
    monkeypatch.setenv("SENCACHE_GALLERY", value)
    with pytest.raises(SystemExit) as ended:
        page.start()
    assert ended.value.code == 2
    (message,) = caplog.messages
    assert message.startswith("SENCACHE_GALLERY: ") and said in message and "\n" not in message


def test_an_app_without_the_variable_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sencache.app.recorded.owners_hub", lambda: pytest.fail("asked"))
    for value in ("", " , "):
        monkeypatch.setenv("SENCACHE_GALLERY", value)
        assert fetch_recorded(gallery_places()) == Recorded()


def test_a_push_needs_a_token_before_any_work(run: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("sencache.gallery.making.make_card", lambda *_: pytest.fail("worked"))
    assert_one_line(run("gallery", "add", BUNDLED, "--to", REPO), "run `hf auth login` or set HF_TOKEN")


def test_checked_from_the_hub(
    run: Program, server: FakeHub, hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "owners_hub", lambda: hub)
    bad = {**contents(made, "bad"), "bad/none.mp4": b"hello"}
    revision = server.add(REPO, {**contents(made), **bad})
    answer = run("gallery", "check", f"{REPO}@{revision}", "--json")
    said = json.loads(answer.out)
    assert (answer.code, said["ok"], said["hold"]) == (1, False, ["fox"])
    assert said["left_out"][0].startswith("bad of ")
