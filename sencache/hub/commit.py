"""One commit onto a dataset of one's own: all of it or nothing, and never over somebody else's change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sencache.errors import SencacheError
from sencache.hub.download import Asked, Hub, explain_errors, fetch

README = "README.md"


@dataclass(frozen=True)
class Head:
    """A dataset as it stands, to be added to; `task` says in errors what was to be done."""

    repo: str
    commit: str
    files: Collection[str]
    task: str
    hub: Hub

    def add(self, contents: Mapping[str, bytes], message: str, deleted: Collection[str] = ()) -> Any:
        """One commit with these files and without the `deleted`; the Hub's answer, with `oid`, `commit_url`.

        Raises SencacheError, and changes nothing, for whatever goes wrong.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        added = [CommitOperationAdd(path, content) for path, content in contents.items()]
        gone = [CommitOperationDelete(path) for path in deleted]
        with explain_errors(self.task, self.hub):
            return self.hub.api().create_commit(
                self.repo,
                [*added, *gone],
                commit_message=message,
                repo_type="dataset",
                parent_commit=self.commit,
            )


def open_head(repo: str, task: str, mark: str, private: bool, hub: Hub) -> Head:
    """The newest commit of the dataset `repo`, which is made if it is missing.

    The token is that of `hub`, else that of the machine's login. Raises SencacheError for whatever goes
    wrong, and where the README.md there lacks `mark`, as it would be lost.
    """
    hub = with_token(hub)
    with explain_errors(task, hub):
        hub.api().create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        info = hub.api().dataset_info(repo, timeout=hub.timeout)
        head = Head(repo, str(info.sha), {file.rfilename for file in info.siblings or ()}, task, hub)
    if README in head.files and mark.encode() not in fetch(Asked(repo, README, head.commit), hub, 1_000_000):
        raise SencacheError(
            f"{repo} has a {README} that was not written by this program and would be lost; "
            "choose another repository or delete it there"
        )
    return head


def with_token(hub: Hub) -> Hub:
    """`hub` with the token of the machine's login, unless it has one; raises SencacheError without any."""
    import huggingface_hub

    token = hub.token or huggingface_hub.get_token()
    if not token:
        raise SencacheError("this needs your own Hub token; run `hf auth login` or set HF_TOKEN")
    return replace(hub, token=token)
