"""The three architectures by name."""

from __future__ import annotations

from types import ModuleType

from sencache.errors import SencacheError
from training import cogvideox, ltx, wan

FAMILIES = {module.name: module for module in (wan, cogvideox, ltx)}


def family(name: str) -> ModuleType:
    """The module for the architecture `name`; raises SencacheError naming those there are."""
    if name not in FAMILIES:
        raise SencacheError(f"unknown architecture {name!r}; choose from {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of(pipe: object) -> ModuleType:
    """The module whose pipeline class `pipe` has; raises SencacheError when there is none."""
    for module in FAMILIES.values():
        if type(pipe).__name__.lower().startswith(module.name):
            return module
    raise SencacheError(
        f"{type(pipe).__name__} is not one of the pipelines of {', '.join(FAMILIES)}; check another folder"
    )
