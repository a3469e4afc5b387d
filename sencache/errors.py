"""The one kind of error a user can cause."""

from __future__ import annotations


class SencacheError(ValueError):
    """Bad input: the message is one sentence that names the offending value and the remedy.

    `code` names the kind of fault for machines, as `part.what-is-wrong` (`profile.unknown-key`,
    `file.too-large`); it stays the same when the words change. None where nobody has needed one yet.
    Command line programs print the message and exit with code 2; the app shows it as it is.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code
