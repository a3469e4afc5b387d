"""Reading files that others wrote: regular files only, of a bounded size, and JSON without surprises."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from typing import Any

from sencache.errors import SencacheError

MAX_KEYS = 200
MAX_PARTS = 20_000

# Opening a pipe that nobody writes to would wait for ever; O_BINARY only exists on Windows.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_limited(path: str | os.PathLike[str], what: str, limit: int) -> bytes:
    """The bytes of the regular file `path`, a `what` of at most `limit` bytes.

    Never waits, and never holds more than `limit` + 1 bytes, whatever size the file claims or grows to.
    Raises SencacheError with code `file.unreadable`, `file.not-regular` or `file.too-large`.
    """
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, _FLAGS)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SencacheError(
                    f"{path} is not a file but a pipe or device; choose a {what}", "file.not-regular"
                )
            content = file.read(limit + 1) if status.st_size <= limit else None
    except SencacheError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SencacheError(
            f"cannot read {what} {path} ({reason}); check the path", "file.unreadable"
        ) from None
    if content is None or len(content) > limit:
        raise SencacheError(
            f"{path} has more than the {limit:,} bytes a {what} may have; choose another file",
            "file.too-large",
        )
    return content


def check_json(text: str | bytes, source: str) -> str:
    """`text` as it is, once it has been found to be JSON that every reader understands alike.

    Refused are other encodings than UTF-8, keys that appear twice in one object (readers differ on which
    counts), objects of more than 200 keys, more than 20,000 opening brackets, integers of thousands of digits
    and nesting too deep to read. Raises SencacheError naming `source`, with code `json.encoding`,
    `json.duplicate-key`, `json.too-many-keys`, `json.too-many-parts`, `json.number`, `json.too-deep` or
    `json.syntax`.
    """

    def refuse(problem: str, code: str) -> SencacheError:
        return SencacheError(f"{source}: {problem}; correct it or choose another file", f"json.{code}")

    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len(pairs) > MAX_KEYS:
            raise refuse(f"an object has {len(pairs):,} keys, more than {MAX_KEYS}", "too-many-keys")
        if len({key for key, _ in pairs}) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise refuse(f"the key {twice[:60]!r} appears twice in one object", "duplicate-key")

    try:
        decoded = (text.encode() if isinstance(text, str) else text).decode()
        # Hundreds of thousands of empty lists take a second and more, most of it in the garbage collector.
        parts = decoded.count("[") + decoded.count("{")
        if parts > MAX_PARTS:
            raise refuse(f"it has {parts:,} lists and objects, more than {MAX_PARTS:,}", "too-many-parts")
        json.loads(decoded, object_pairs_hook=unique)
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise refuse(f"it is not UTF-8 text ({error.reason} at {error.start})", "encoding") from None
    except RecursionError:
        raise refuse("lists or objects are nested too deep to read", "too-deep") from None
    except json.JSONDecodeError as error:
        raise refuse(
            f"Invalid JSON at line {error.lineno} column {error.colno} ({error.msg})",
            "encoding" if decoded.startswith("\ufeff") else "syntax",
        ) from None
    except SencacheError:
        raise
    except ValueError:
        raise refuse("an integer has thousands of digits", "number") from None
    return decoded
