"""Every architecture there is, one in each file of this room. A new file with an `ARCHITECTURE` is all that a
new one takes; from outside the package, `ARCHITECTURES[name] = Architecture(name, …)`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from sencache.architectures.base import UNKNOWN, Architecture
from sencache.errors import SencacheError

_FILES = sorted(file.name for file in iter_modules([str(Path(__file__).parent)]) if file.name != "base")
ARCHITECTURES: dict[str, Architecture] = {
    found.name: found for found in (import_module(f"{__name__}.{file}").ARCHITECTURE for file in _FILES)
}


def find_architecture(name: str) -> Architecture:
    """The architecture of that name; raises SencacheError naming those there are."""
    if name not in ARCHITECTURES:
        raise SencacheError(f"unknown architecture {name!r}; use one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def architecture_of(transformer: Any) -> Architecture:
    """That of `transformer` or of one of its base classes; raises SencacheError when there is none."""
    for cls in type(transformer).__mro__:
        for architecture in ARCHITECTURES.values():
            if cls.__name__ in architecture.transformers:
                return architecture
    raise SencacheError(
        f"nobody has said what is inside a {type(transformer).__name__}; set target=prediction and a method "
        f"that does not look inside, or use a pipeline with one of {known_transformers()}"
    )


def outside_of(transformer: Any) -> Architecture:
    """The architecture of `transformer`, or what is true of any of which none is known: a latent goes in."""
    try:
        return architecture_of(transformer)
    except SencacheError:
        return Architecture(
            type(transformer).__name__.lower(), (type(transformer).__name__,), (UNKNOWN,), None
        )


def known_transformers() -> str:
    return ", ".join(name for each in ARCHITECTURES.values() for name in each.transformers)


def architecture_running(pipeline: str, source: str) -> Architecture:
    """That of a pipeline's class; raises SencacheError, naming the `source` of the checkpoint, when there is
    none.
    """
    for architecture in ARCHITECTURES.values():
        if pipeline in architecture.pipelines:
            return architecture
    known = ", ".join(name for each in ARCHITECTURES.values() for name in each.pipelines)
    raise SencacheError(f"{source} is a {pipeline}, which is not supported; use one of {known}")


def text_encoders() -> tuple[str, ...]:
    """Every part that any architecture encodes text with."""
    return tuple(dict.fromkeys(part for each in ARCHITECTURES.values() for part in each.text_encoders))
