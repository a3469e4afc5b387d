"""Failures are one sentence that names file, repository and remedy; one try; nothing kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fake_hub
import huggingface_hub
import huggingface_hub.constants
import pytest
from fake_hub import TOKEN, FakeHub, Handler
from hub_profiles import CONTENT, FILE, NOWHERE, OWN, REPO, files, on, page, pull, refusal, status

from sencache.hub.download import Hub

pytestmark = pytest.mark.usefixtures("no_telemetry")


@pytest.mark.parametrize(
    ("method", "code", "said"),
    [
        ("HEAD", 401, "no such repository, or it is private"),
        ("GET", 403, "access is denied"),
        ("HEAD", 404, "answered 404"),
        ("GET", 429, "too many requests"),
        ("GET", 503, "answered 503, which is its own fault; try again later"),
    ],
)
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
        ("GET", stall, "did not answer within 1 s"),
        ("GET", trickle, "did not arrive within 1 s"),
        ("GET", cut, "cannot be reached"),
        ("GET", lambda h: h.answer(200, CONTENT[:-9]), "shorter than"),
        ("GET", lambda h: h.answer(200, CONTENT + b" "), "longer than"),
        ("GET", endless, "longer than"),
        ("GET", lambda h: h.answer(200, CONTENT[:-2] + b" \n"), "has the hash"),
        ("HEAD", page, "not that of a Hub"),
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
        hub = replace(hub, timeout=1.0, deadline=1.0)
    text = refusal(lambda: pull(hub, revision))
    assert said in text and FILE in text and REPO in text
    assert not (hub.cache or Path()).exists()


GREEDY = OWN.model_copy(update={"presets": {"slow": {"magcache": {"threshold": 1e9, "max_reuses": 1000}}}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "Invalid JSON"),
        (CONTENT.replace(b'"wan"', b'"U-Net"'), "model.architecture is 'U-Net'"),
        (GREEDY.to_json().encode(), "magcache would reuse every step"),
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


def test_without_network_or_switched_off_it_says_so(
    server: FakeHub, hub: Hub, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = refusal(lambda: pull(replace(hub, endpoint="http://127.0.0.1:9"), revision))
    assert "the Hub cannot be reached; check the network" in text
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refusal(lambda: pull(hub, revision))
    assert server.requests == []
