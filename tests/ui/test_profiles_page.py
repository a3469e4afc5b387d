"""The profiles page: what is shown of a profile, and what happens to files of others."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import served, visited

from sencache.app.pages.own_profiles import MOST_OWN, Own, add_profile
from sencache.app.pages.profiles import build_profiles_page
from sencache.hub.exchange import LISTED
from sencache.policies.loading import load_profile
from sencache.profiles.library import bundled_profiles
from sencache.profiles.profile import Profile

HOSTILE = '<img src=x onerror="window.pwned=1"><a href="https://example.org">${window.pwned=2}{{7*7}}'
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    # No answer comes from there, and none is waited for.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        with served(build_profiles_page) as address:
            yield address


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    with visited(browser, url) as opened:
        opened.locator("#profile-facts h3").wait_for()
        yield opened


@pytest.fixture(scope="module")
def untouched(browser: Any, url: str) -> Iterator[Any]:
    """One page for everything that must leave it as it was."""
    with visited(browser, url) as opened:
        opened.locator("#profile-facts h3").wait_for()
        yield opened


@pytest.fixture
def named(bundled_profile: Profile) -> dict[str, Any]:
    """A valid profile whose texts are an attack."""
    data: dict[str, Any] = json.loads(bundled_profile.to_json())
    data["schedule"]["scheduler"] = data["provenance"]["source"] = data["provenance"]["licence"] = HOSTILE
    return data


def upload(page: Any, path: Path) -> str:
    """What the page says of the file."""
    before = page.locator("#profile-note .note").inner_text()
    with page.expect_file_chooser() as chooser:
        page.locator("#profile-upload").click()
    chooser.value.set_files(path)
    page.wait_for_function(
        "(before) => document.querySelector('#profile-note .note').innerText !== before", arg=before
    )
    return str(page.locator("#profile-note .note").inner_text())


def facts(page: Any) -> dict[str, str]:
    terms, texts = (page.locator(f"#profile-facts {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(terms, texts, strict=True))


def curves(page: Any) -> int:
    plot = "document.querySelector('#browsed-plot .js-plotly-plot')"
    page.wait_for_function(f"{plot}?.offsetHeight > 100")
    return int(page.evaluate(f"{plot}.data.filter((trace) => trace.fill !== 'toself').length"))


def test_a_bundled_profile_is_described_drawn_and_given_away(
    untouched: Any, bundled_profile: Profile
) -> None:
    shown = facts(untouched)
    assert shown["Licence"] == bundled_profile.provenance.licence
    assert shown["Provenance"].startswith(bundled_profile.provenance.kind)
    serves = untouched.locator("#profile-facts .serves span").all_inner_texts()
    assert serves == ["SenCache", "MagCache", "TeaCache"]
    assert curves(untouched) == 6
    with untouched.expect_download() as download:
        untouched.get_by_role("button", name="Download JSON").click()
    name = download.value.suggested_filename
    expected = load_profile(bundled_profiles()[name.removesuffix(".json")])
    assert shown["sha256"] == expected.sha256
    assert Path(download.value.path()).read_text(encoding="utf-8") == expected.to_json()


def test_an_uploaded_profile_stays_text_and_can_be_overlaid(
    page: Any, tmp_path: Path, named: dict[str, Any]
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(named), encoding="utf-8")
    assert upload(page, path) == "mine.json: a valid profile of tiny-wan."
    page.locator("#profile-facts h3", has_text="mine.json").wait_for()
    shown = facts(page)
    assert shown["Licence"] == HOSTILE and shown["Provenance"] == f"measured: {HOSTILE}"
    assert shown["Schedule"].startswith(HOSTILE)
    page.get_by_label("Overlay in the plot").first.click()
    page.get_by_role("option", name="tiny-wan.unipc-50", exact=True).click()
    page.wait_for_function("document.querySelector('#browsed-plot .js-plotly-plot').data.length > 10")
    assert curves(page) == 11
    assert page.evaluate("window.pwned ?? null") is None
    assert page.locator("#profile-facts img, #profile-note img, #browsed-plot a[href*=example]").count() == 0


def test_the_same_name_twice_is_two_entries_and_the_list_has_an_end(bundled_profile: Profile) -> None:
    own: Own = {}
    for _ in range(MOST_OWN):
        own, name, said = add_profile(lambda: (bundled_profile, "twin.json", ""), own)
        assert name and not said["bad"]
    assert list(own)[:2] == ["twin.json", "twin.json (2)"] and len(own) == MOST_OWN
    *_, said = add_profile(lambda: (bundled_profile, "more", ""), own)
    assert said["bad"] and str(MOST_OWN) in str(said["text"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("markup.json", {"model": {"id": HOSTILE, "revision": None, "architecture": "wan"}}, "<img src=x"),
        ("large.json", b" " * 1_000_001, "more than the 1,000,000"),
        ("code.npz", b"PK\x03\x04 no archive", "code.npz"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(
    untouched: Any,
    tmp_path: Path,
    named: dict[str, Any],
    name: str,
    content: bytes | dict[str, Any],
    said: str,
) -> None:
    if isinstance(content, dict):
        content = json.dumps({**named, **content}).encode()
    path = tmp_path / name
    path.write_bytes(content)
    answer = upload(untouched, path)
    assert said in answer and "Traceback" not in answer and "\n" not in answer
    assert untouched.locator("#profile-note .bad").count() == 1
    assert untouched.locator("#profile-facts h3").inner_text() in bundled_profiles()
    assert untouched.evaluate("window.pwned ?? null") is None


def test_nothing_of_an_upload_is_kept(page: Any, tmp_path: Path, named: dict[str, Any], url: str) -> None:
    path, kept = tmp_path / "gone-tomorrow.json", list[str]()
    path.write_text(json.dumps(named), encoding="utf-8")
    page.on("response", lambda response: kept.append(response.text()) if "/upload" in response.url else None)
    upload(page, path)
    stored = [Path(p) for text in kept if text.startswith("[") for p in json.loads(text)]
    assert stored and not any(p.exists() for p in stored)
    # Another tab of the same browser is another visit.
    later = page.context.new_page()
    later.goto(url)
    later.locator("#profile-facts h3").wait_for()
    later.get_by_label("Profile", exact=True).first.click()
    later.get_by_role("option").first.wait_for()
    assert later.get_by_role("option", name="gone-tomorrow.json").count() == 0


def test_published_constants_alone_are_said_to_be_that(page: Any) -> None:
    published = next(name for name, path in bundled_profiles().items() if not load_profile(path).sensitivity)
    page.get_by_label("Profile", exact=True).first.click()
    page.get_by_role("option", name=published, exact=True).click()
    page.locator("#profile-facts h3", has_text=published).wait_for()
    assert facts(page)["Provenance"].startswith("published")
    assert "SenCache" not in page.locator("#profile-facts .serves").inner_text()
    said = page.locator("#profile-facts .warning").first.inner_text()
    assert "SenCache cannot use it" in said and "Pull" in said and "python -m sencache calibrate" in said


def test_a_pull_tells_how_far_it_is_and_ends_in_the_list(
    page: Any, monkeypatch: pytest.MonkeyPatch, bundled_profile: Profile
) -> None:
    go_on = threading.Event()

    def pull(file: str, repo: str, revision: str, on_bytes: Any) -> Profile:
        on_bytes(1234, 5678)
        assert go_on.wait(60)
        return bundled_profile.with_origin(file, repo, revision)

    monkeypatch.setattr("sencache.app.pages.profiles.pull_profile", pull)
    page.get_by_role("button", name="Pull from the Hub").click()
    page.get_by_label("Commit").fill(f" {COMMIT} ")
    page.get_by_role("button", name="Pull", exact=True).click()
    page.locator("#pull-note .note", has_text="1,234 of 5,678 bytes").wait_for()
    go_on.set()
    repo, files = next(iter(LISTED.items()))
    page.locator("#profile-facts h3", has_text=f"{files[0]} of {repo}").wait_for()
    shown = facts(page)
    assert (shown["Repository"], shown["Commit"], shown["From"]) == (repo, COMMIT, "pulled from the Hub")


def test_pulling_without_network_says_so(page: Any) -> None:
    page.get_by_role("button", name="Pull from the Hub").click()
    page.get_by_role("button", name="Pull", exact=True).click()
    note, (repo, files) = page.locator("#pull-note .bad"), next(iter(LISTED.items()))
    note.filter(has_text=f"cannot find the newest commit of {repo}: the Hub cannot be reached").wait_for()
    page.get_by_label("Commit").fill(COMMIT)
    page.get_by_role("button", name="Pull", exact=True).click()
    note.filter(has_text=f"cannot get {files[0]} of {repo}").wait_for()
