"""The one way in for profiles: whatever is read here can serve a run, or is refused."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from sencache.policies.soundness import check_presets
from sencache.profiles.library import bundled_profile, bundled_profiles, earlier_profiles
from sencache.profiles.profile import MAX_BYTES, Profile, read_unchecked
from sencache.reading import read_limited


def parse_profile(text: str | bytes, source: str = "profile") -> Profile:
    """The profile in `text`; raises SencacheError, naming `source` and the field, for what is no profile, and
    for a profile that could serve no run, with the codes of `read_unchecked` and `check_presets`.
    """
    profile = read_unchecked(text, source)
    check_presets(profile)
    return profile


def load_profile(path: str | os.PathLike[str]) -> Profile:
    """The profile in a file; raises SencacheError as `parse_profile`, and with the codes of
    `reading.read_limited` when the file is missing or too large.
    """
    return parse_profile(read_limited(path, "profile", MAX_BYTES), str(path)).with_origin(Path(path).name)


def load_bundled(name: str) -> Profile:
    """The profile called `name` that comes with the software; raises SencacheError naming those there are."""
    return _once(bundled_profile(name))


def load_all_bundled() -> dict[str, Profile]:
    """All that come with the software, by name."""
    return {name: _once(path) for name, path in bundled_profiles().items()}


def load_earlier() -> list[Profile]:
    """Those that came with it before."""
    return [_once(path) for path in earlier_profiles()]


# What comes with the software does not change while it runs, and pages ask for it at every click.
_once = cache(load_profile)
