"""The profiles that come with the software."""

from __future__ import annotations

from pathlib import Path

from sencache.errors import SencacheError


def bundled_profiles() -> dict[str, Path]:
    """All of them by name: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parents[1]
    folder = next(f for f in (package / "bundled_profiles", package.parent / "profiles") if f.is_dir())
    found = {path.stem: path for path in folder.glob("*.json")}
    return {name: found[name] for name in sorted(found)}


def bundled_profile(name: str) -> Path:
    """The file of the profile `name`; raises SencacheError naming those there are."""
    found = bundled_profiles()
    if name not in found:
        raise SencacheError(f"no bundled profile {name!r}; there are {', '.join(found) or 'none'}")
    return found[name]
