"""A Hub of datasets on the loopback interface: small, with the endpoints that the real client asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_owner"
RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/datasets/([^/]+/[^/]+?)(?:/(preupload|commit|revision)/([^/?]+))?(?:\?.*)?")

Files = dict[str, bytes]
Fault = Callable[["Handler"], bool]


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """A dataset: the files of each commit, oldest first, and who may see it."""

    commits: dict[str, Files] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    large: set[str] = field(default_factory=set)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: Files, deleted: Collection[str] = ()) -> str:
        merged = {**(self.commits[self.head] if self.commits else {}), **files}
        merged = {path: content for path, content in merged.items() if path not in deleted}
        listing = json.dumps(
            [len(self.commits), *((path, git_hash(merged[path])) for path in sorted(merged))]
        )
        self.commits[hashlib.sha1(listing.encode()).hexdigest()] = merged
        return self.head


@dataclass
class FakeHub:
    """`fault(handler)` may answer a request in place of the Hub; True when it did."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    fault: Fault | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def add(self, repo: str, files: Files, **kind: Any) -> str:
        """A repository with one commit; returns its hash."""
        self.repos[repo] = Repo(**kind)
        return self.repos[repo].commit(files)


class Handler(BaseHTTPRequestHandler):
    """One request to the Hub."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""

    def setup(self) -> None:
        super().setup()
        self.hub: FakeHub = self.server.hub  # type: ignore[attr-defined]

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """`headers` have underscores for dashes; one called Content_Length replaces the true one."""
        self.send_response(status)
        named = {"Content-Length": str(len(body))}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def refuse(self, status: int, code: str = "") -> None:
        self.answer(status, b'{"error": "no"}', **({"X_Error_Code": code} if code else {}))

    @property
    def owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, self.path))
        self.hub.tokens.append(self.headers.get("Authorization"))
        if self.hub.fault and self.hub.fault(self):
            return
        if found := RESOLVE.fullmatch(self.path):
            self.resolve(*found.groups())
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        elif found := API.fullmatch(self.path):
            self.dataset(found[1], found[2], found[3], body)
        else:
            self.refuse(404)

    do_GET = do_HEAD = do_POST = handle_one  # noqa: N815

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.owner):
            self.refuse(401, "RepoNotFound")
        elif repo.gated and not self.owner:
            self.refuse(403, "GatedRepo")
        elif revision not in repo.commits:
            self.refuse(404, "RevisionNotFound")
        elif path not in repo.commits[revision]:
            self.refuse(404, "EntryNotFound")
        else:
            self.file(repo, revision, path)

    def file(self, repo: Repo, revision: str, path: str) -> None:
        content = repo.commits[revision][path]
        if path in repo.large:
            self.answer(
                302,
                X_Repo_Commit=revision,
                X_Linked_Size=str(len(content)),
                X_Linked_ETag=f'"{hashlib.sha256(content).hexdigest()}"',
                Location=f"{self.server.store}/{hashlib.sha256(content).hexdigest()}",  # type: ignore[attr-defined]
            )
        else:
            self.answer(200, content, X_Repo_Commit=revision, ETag=f'"{git_hash(content)}"')

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if not self.owner:
            self.refuse(401)
        elif name in self.hub.repos:
            self.json({"error": "exists", "url": f"{self.hub.endpoint}/datasets/{name}"}, status=409)
        else:
            self.hub.add(name, {".gitattributes": b""}, private=asked.get("visibility") == "private")
            self.json({"url": f"{self.hub.endpoint}/datasets/{name}"})

    def dataset(self, name: str, action: str | None, revision: str | None, body: bytes) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.owner):
            self.refuse(401, "RepoNotFound")
        elif action is None or action == "revision":
            self.listing(name, repo, repo.head if revision in (None, "main") else str(revision))
        elif not self.owner:
            self.refuse(403)
        elif action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self.json({"files": files})
        else:
            self.take(name, repo, [json.loads(line) for line in body.splitlines()])

    def listing(self, name: str, repo: Repo, revision: str) -> None:
        if revision not in repo.commits:
            self.refuse(404, "RevisionNotFound")
            return
        files = [{"rfilename": path} for path in repo.commits[revision]]
        self.json({"id": name, "sha": revision, "siblings": files, "tags": [], "downloads": 0})

    def take(self, name: str, repo: Repo, lines: list[dict[str, Any]]) -> None:
        header = next(line["value"] for line in lines if line["key"] == "header")
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        if header.get("parentCommit") not in (None, repo.head):
            self.refuse(412)
            return
        deleted = {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
        self.hub.commits.append({**header, "files": files})
        oid = repo.commit(files, deleted)
        self.json({"commitUrl": f"{self.hub.endpoint}/datasets/{name}/commit/{oid}", "commitOid": oid})


class Store(BaseHTTPRequestHandler):
    """Where the Hub keeps large files: another origin, which must see no token."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""

    def do_GET(self) -> None:
        hub: FakeHub = self.server.hub  # type: ignore[attr-defined]
        hub.requests.append(("GET", f"store{self.path}"))
        hub.tokens.append(self.headers.get("Authorization"))
        contents = (
            c for repo in hub.repos.values() for files in repo.commits.values() for c in files.values()
        )
        found = next((c for c in contents if hashlib.sha256(c).hexdigest() == self.path[1:]), None)
        self.send_response(200 if found is not None else 404)
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        self.wfile.write(found or b"")


class Server(ThreadingHTTPServer):
    """Quiet about clients that hang up, as they should on bad answers."""

    daemon_threads, block_on_close = True, False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing."""


@contextmanager
def running() -> Iterator[FakeHub]:
    """A Hub that serves until the block ends."""
    hub = FakeHub()
    servers = [Server(("127.0.0.1", 0), kind) for kind in (Handler, Store)]
    main, store = servers
    for server in servers:
        server.hub = hub  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{main.server_port}"
    main.store = f"http://127.0.0.1:{store.server_port}"  # type: ignore[attr-defined]
    try:
        yield hub
    finally:
        hub.over.set()
        for server in servers:
            server.shutdown()
            server.server_close()
