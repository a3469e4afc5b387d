"""The profiles that come with the software."""

from __future__ import annotations

from pathlib import Path

from sencache.errors import SencacheError


def bundled_profiles() -> dict[str, Path]:
    """All of them by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.json"))}


def earlier_profiles() -> list[Path]:
    """Those that came with the software before, which reports of then were made with."""
    return sorted(_folder().glob("earlier/*.json"))


def _folder() -> Path:
    """Beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parents[1]
    return next(f for f in (package / "bundled_profiles", package.parent / "profiles") if f.is_dir())


def bundled_profile(name: str) -> Path:
    """The file of the profile `name`; raises SencacheError naming those there are."""
    found = bundled_profiles()
    if name not in found:
        raise SencacheError(f"no bundled profile {name!r}; there are {', '.join(found) or 'none'}")
    return found[name]
