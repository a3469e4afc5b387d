"""One file of a Hub dataset at one commit: small, whole, checked against its hash, and in bounded time.

The Hub's client retries for half a minute and more where a page waits for an answer. Here every request is
made once, the announced size is checked before anything is fetched, the fetch ends at a deadline, and the
content must have the hash that the Hub announced for it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from sencache.errors import SencacheError

COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_REDIRECTS = 5
# The Hub keeps large files on other hosts of these domains.
HUB_DOMAINS = ("huggingface.co", "hf.co")

_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_HASHES = {40: "git", 64: "sha256"}


@dataclass(frozen=True)
class Hub:
    """How to reach the Hub: at `endpoint`, the client's own (HF_ENDPOINT) unless given.

    Files are kept in `cache`, a folder within the client's own (HF_HOME) unless given.

    Without a `token` none is sent, not even that of the machine's own login. `timeout` is that of one
    answer, `deadline` that of one file, both in seconds. With `keeps` off nothing new is stored: what
    strangers ask for must not fill the disk.
    """

    endpoint: str | None = None
    cache: Path | None = None
    token: str | None = None
    timeout: float = 10.0
    deadline: float = 60.0
    keeps: bool = True


@dataclass(frozen=True)
class Asked:
    """A file of a dataset repository at one commit."""

    repo: str
    file: str
    revision: str

    def __post_init__(self) -> None:
        check_repo(self.repo)
        if not COMMIT.fullmatch(self.revision):
            raise SencacheError(
                f"revision {self.revision[:60]!r} of {self.repo} is not a full commit hash; "
                "give its 40 hexadecimal digits, or leave it away to take the newest"
            )

    def __str__(self) -> str:
        return f"{self.file} of {self.repo} at {self.revision[:8]}"


def check_repo(repo: str) -> None:
    """Raise SencacheError for anything but the name of a repository."""
    if not _REPO.fullmatch(repo) or any(part in repo for part in ("..", "--")):
        raise SencacheError(f"{repo[:60]!r} is not a repository; give it as owner/name")


def newest(repo: str, hub: Hub, revision: str = "main") -> tuple[str, tuple[str, ...]]:
    """The commit that `revision` of a dataset stands for, and the paths of its files.

    Raises SencacheError, in one sentence that names repository and remedy, for whatever goes wrong.
    """
    import huggingface_hub

    check_repo(repo)
    api = huggingface_hub.HfApi(endpoint=hub.endpoint, token=hub.token or False)
    with explained(f"find the newest commit of {repo}", hub):
        info = api.dataset_info(repo, revision=revision, timeout=hub.timeout, expand=["sha", "siblings"])
    if not COMMIT.fullmatch(str(info.sha)):
        raise SencacheError(
            f"the answer for {repo} is not that of a Hub (no commit); check HF_ENDPOINT, proxy and firewall"
        )
    return str(info.sha), tuple(sibling.rfilename for sibling in info.siblings or ())


def fetch(
    asked: Asked, hub: Hub, limit: int, on_bytes: Callable[[int, int], object] = lambda done, total: None
) -> bytes:
    """The content of one file of at most `limit` bytes, from the Hub.

    `on_bytes(done, total)` is called as it arrives. Raises SencacheError, in one sentence that names
    repository, file and remedy, for whatever goes wrong.
    """
    import huggingface_hub

    with explained(f"get {asked}", hub):
        url = huggingface_hub.hf_hub_url(
            asked.repo, asked.file, repo_type="dataset", revision=asked.revision, endpoint=hub.endpoint
        )
        found = huggingface_hub.get_hf_file_metadata(
            url, token=hub.token or False, timeout=hub.timeout, endpoint=hub.endpoint
        )
        size = _announced(asked, found, limit)
        content = _content(asked, hub, url, size, on_bytes)
    _check_hash(asked, content, str(found.etag))
    return content


def _announced(asked: Asked, found: Any, limit: int) -> int:
    """The size in the Hub's answer; raises SencacheError when the answer is of no use."""
    if found.commit_hash is None or found.size is None or len(found.etag or "") not in _HASHES:
        raise SencacheError(
            f"the answer for {asked} is not that of a Hub (no commit, size or hash); "
            "check HF_ENDPOINT, proxy and firewall"
        )
    if found.commit_hash != asked.revision:
        raise SencacheError(
            f"the Hub answered for {asked} with commit {found.commit_hash[:40]!r}; check HF_ENDPOINT"
        )
    if found.size > limit:
        raise SencacheError(
            f"{asked} has {found.size:,} bytes, more than the {limit:,} it may have; choose another file"
        )
    return int(found.size)


def _content(asked: Asked, hub: Hub, url: str, size: int, on_bytes: Callable[[int, int], object]) -> bytes:
    content, ends = b"", time.monotonic() + hub.deadline
    for chunk in _chunks(asked, hub, url):
        content += chunk
        on_bytes(len(content), size)
        if len(content) > size:
            break
        if time.monotonic() > ends:
            raise SencacheError(
                f"{asked} did not arrive within {hub.deadline:g} s ({len(content):,} of {size:,} bytes did); "
                "try again on a faster connection"
            )
    if len(content) != size:
        length = "longer" if len(content) > size else "shorter"
        raise SencacheError(f"{asked} arrived {length} than the {size:,} bytes announced; try again")
    return content


def _chunks(asked: Asked, hub: Hub, url: str) -> Iterator[bytes]:
    """The body behind `url`, as it is sent; redirects lead to the same host or to the Hub's own hosts."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    start, session = urlsplit(url), get_session()
    headers = build_hf_headers(token=hub.token or False, headers={"Accept-Encoding": "identity"})
    for _ in range(MAX_REDIRECTS):
        with session.stream(
            "GET", url, headers=headers, timeout=hub.timeout, follow_redirects=False
        ) as response:
            if not response.has_redirect_location:
                hf_raise_for_status(response)
                yield from response.iter_raw()
                return
            url = urljoin(url, response.headers["Location"])
        target = urlsplit(url)
        if target[:2] != start[:2]:
            headers.pop("authorization", None)
        if target.hostname != start.hostname or target.scheme != start.scheme:
            _check_host(asked, target)
    raise SencacheError(f"{asked} is redirected more than {MAX_REDIRECTS} times; check HF_ENDPOINT")


def _check_host(asked: Asked, target: SplitResult) -> None:
    host = target.hostname or ""
    ours = any(host == domain or host.endswith(f".{domain}") for domain in HUB_DOMAINS)
    if target.scheme != "https" or not ours:
        raise SencacheError(
            f"{asked} is redirected to {target.scheme}://{host[:100]}, not the Hub; check HF_ENDPOINT"
        )


def _check_hash(asked: Asked, content: bytes, announced: str) -> None:
    """Small files are announced by their git hash, large ones by their SHA-256."""
    if _HASHES[len(announced)] == "git":
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        found = hashlib.sha256(content).hexdigest()
    if found != announced:
        raise SencacheError(
            f"{asked} has the hash {found[:12]}…, and the Hub announced {announced[:12]}…; try again"
        )


@contextmanager
def explained(task: str, hub: Hub) -> Iterator[None]:
    """Whatever the Hub's client raises becomes a SencacheError: `task` failed, why, and what to do."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    try:
        yield
    except SencacheError:
        raise
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise SencacheError(f"cannot {task}: {_reason(error, hub)}") from None
    # Answers that are no JSON or not the expected JSON, and addresses that are none.
    except (ValueError, LookupError, TypeError, httpx.InvalidURL) as error:
        raise SencacheError(
            f"cannot {task}: the answer is not that of a Hub ({type(error).__name__}); "
            "check HF_ENDPOINT, proxy and firewall"
        ) from None


_UNSEEN = "there is no such repository, or it is private; check its name or use your own token"


def _reason(error: Exception, hub: Hub) -> str:
    """Special cases before what they are special cases of."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    reasons: Iterable[tuple[type[Exception], str]] = (
        (
            errors.OfflineModeIsEnabled,
            "the Hub is switched off; unset HF_HUB_OFFLINE",
        ),
        (
            errors.GatedRepoError,
            "the repository is gated; accept its terms on the Hub and use your own token",
        ),
        (
            errors.RepositoryNotFoundError,
            _UNSEEN,
        ),
        (errors.RevisionNotFoundError, "there is no such commit; copy its full hash from the Hub"),
        (errors.RemoteEntryNotFoundError, "there is no such file at that commit; see its list on the Hub"),
        (errors.HfHubHTTPError, ""),
        (httpx.TimeoutException, f"the Hub did not answer within {hub.timeout:g} s; try again later"),
        (httpx.HTTPError, "the Hub cannot be reached; check the network and HF_ENDPOINT"),
    )
    return next(text for kind, text in reasons if isinstance(error, kind)) or _by_status(error, hub)


def _by_status(error: Any, hub: Hub) -> str:
    status = error.response.status_code
    # A visitor without a token gets 401 for whatever is private or missing.
    unauthorised = "the token was not accepted; run `hf auth login` anew" if hub.token else _UNSEEN
    remedies = {
        401: unauthorised,
        403: "access is denied; use a token that may do this",
        409: "the repository was changed meanwhile; try again",
        412: "the repository was changed meanwhile; try again",
        429: "too many requests; wait a few minutes and try again",
    }
    return f"the Hub answered {status}, {remedies.get(status, 'which is its own fault; try again later')}"
