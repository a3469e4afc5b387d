"""One file of a Hub dataset at one commit: small, whole, checked against its hash, and in bounded time.

The Hub's client retries for half a minute and more where a page waits for an answer. Here every request is
made once, the announced size is checked before anything is fetched, the fetch ends at a deadline, and the
content must have the hash that the Hub announced for it. Copies are kept by repository and commit.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urljoin, urlsplit

from sencache.errors import SencacheError
from sencache.files import atomic

if TYPE_CHECKING:
    from huggingface_hub import HfApi

COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_REDIRECTS = 5
# The Hub keeps large files on other hosts of these domains.
HUB_DOMAINS = ("huggingface.co", "hf.co")
LAST = "last-commit"

Progress = Callable[[int, int], object]

_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_UNSEEN = "there is no such repository, or it is private; check its name or use your own token"


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

    def api(self) -> HfApi:
        """The Hub's client."""
        import huggingface_hub

        return huggingface_hub.HfApi(endpoint=self.endpoint, token=self.token or False)


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


def is_repo(text: str) -> bool:
    return _REPO.fullmatch(text) is not None and ".." not in text and "--" not in text


def check_repo(repo: str) -> None:
    """Raise SencacheError for anything but the name of a repository."""
    if not is_repo(repo):
        raise SencacheError(f"{repo[:60]!r} is not a repository; give it as owner/name")


def newest(
    repo: str, hub: Hub, revision: str = "main", task: str | None = None
) -> tuple[str, tuple[str, ...]]:
    """The commit that `revision` of a dataset stands for, and the paths of its files.

    Raises SencacheError, in one sentence that names the `task` and the remedy, for whatever goes wrong.
    """
    check_repo(repo)
    with explain_errors(task or f"find the newest commit of {repo}", hub):
        info = hub.api().dataset_info(
            repo, revision=revision, timeout=hub.timeout, expand=["sha", "siblings"]
        )
    if not COMMIT.fullmatch(str(info.sha)):
        raise SencacheError(
            f"the answer for {repo} is not that of a Hub (no commit); check HF_ENDPOINT, proxy and firewall"
        )
    return str(info.sha), tuple(sibling.rfilename for sibling in info.siblings or ())


def fetch(asked: Asked, hub: Hub, limit: int, on_bytes: Progress = lambda done, total: None) -> bytes:
    """The content of one file of at most `limit` bytes, from the Hub.

    `on_bytes(done, total)` is called as it arrives. Raises SencacheError, in one sentence that names
    repository, file and remedy, for whatever goes wrong.
    """
    import huggingface_hub

    with explain_errors(f"get {asked}", hub):
        url = huggingface_hub.hf_hub_url(
            asked.repo, asked.file, repo_type="dataset", revision=asked.revision, endpoint=hub.endpoint
        )
        announced: Any = huggingface_hub.get_hf_file_metadata(
            url, token=hub.token or False, timeout=hub.timeout, endpoint=hub.endpoint
        )
        _check_announced(asked, announced, limit)
        content = _content(asked, hub, url, announced.size, on_bytes)
    _check_hash(asked, content, announced.etag)
    return content


def _check_announced(asked: Asked, found: Any, limit: int) -> None:
    if found.commit_hash is None or found.size is None or len(found.etag or "") not in (40, 64):
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


def _content(asked: Asked, hub: Hub, url: str, size: int, on_bytes: Progress) -> bytes:
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
    if len(announced) == 40:
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        found = hashlib.sha256(content).hexdigest()
    if found != announced:
        raise SencacheError(
            f"{asked} has the hash {found[:12]}…, and the Hub announced {announced[:12]}…; try again"
        )


# ---- copies that are kept


def kept_path(asked: Asked, hub: Hub) -> Path:
    """Where a copy of the file is kept, whether it is there or not."""
    return _folder(asked.repo, hub) / asked.revision / asked.file


def keep(asked: Asked, content: bytes, hub: Hub) -> None:
    """Store a copy for next time, if copies are kept; raises SencacheError where it cannot be written."""
    if hub.keeps:
        _store(kept_path(asked, hub), content)


def kept_files(repo: str, revision: str, hub: Hub) -> tuple[str, ...]:
    """The names of the files that are kept of a commit."""
    with suppress(OSError):
        return tuple(sorted(path.name for path in (_folder(repo, hub) / revision).iterdir()))
    return ()


def remember(repo: str, revision: str, hub: Hub) -> None:
    """Note `revision` as the commit that was last taken of `repo`, for when the Hub cannot be asked."""
    if hub.keeps:
        _store(_folder(repo, hub) / LAST, revision.encode())


def last_commit(repo: str, hub: Hub) -> str | None:
    """The commit that was last taken of `repo`."""
    with suppress(OSError, ValueError):
        revision = (_folder(repo, hub) / LAST).read_text(encoding="ascii")
        return revision if COMMIT.fullmatch(revision) else None
    return None


def _folder(repo: str, hub: Hub) -> Path:
    from huggingface_hub import constants

    return (hub.cache or Path(constants.HF_ASSETS_CACHE, "sencache")) / repo.replace("/", "--")


def _store(path: Path, content: bytes) -> None:
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise SencacheError(
            f"cannot keep {path} ({error.strerror}); make room there or set HF_HOME"
        ) from None


# ---- what goes wrong, in one sentence


@contextmanager
def explain_errors(task: str, hub: Hub) -> Iterator[None]:
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


def _reason(error: Any, hub: Hub) -> str:
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    # Special cases before what they are special cases of.
    match error:
        case errors.OfflineModeIsEnabled():
            return "the Hub is switched off; unset HF_HUB_OFFLINE"
        case errors.GatedRepoError():
            return "the repository is gated; accept its terms on the Hub and use your own token"
        case errors.RepositoryNotFoundError():
            return _UNSEEN
        case errors.RevisionNotFoundError():
            return "there is no such commit; copy its full hash from the Hub"
        case errors.RemoteEntryNotFoundError():
            return "there is no such file at that commit; see its list on the Hub"
        case errors.HfHubHTTPError():
            return _by_status(error.response.status_code, hub)
        case httpx.TimeoutException():
            return f"the Hub did not answer within {hub.timeout:g} s; try again later"
        case _:
            return "the Hub cannot be reached; check the network and HF_ENDPOINT"


def _by_status(status: int, hub: Hub) -> str:
    remedies = {
        # A visitor without a token gets 401 for whatever is private or missing.
        401: "the token was not accepted; run `hf auth login` anew" if hub.token else _UNSEEN,
        403: "access is denied; use a token that may do this",
        409: "the repository was changed meanwhile; try again",
        412: "the repository was changed meanwhile; try again",
        429: "too many requests; wait a few minutes and try again",
    }
    return f"the Hub answered {status}, {remedies.get(status, 'which is its own fault; try again later')}"
