"""Named things of one kind, to which others can be added from outside the package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sencache.errors import SencacheError

T = TypeVar("T")
NAME = re.compile(r"[a-z][a-z-]{0,30}")


class Registry(dict[str, T]):
    """What can be named, in the order in which it is shown; `kind` is what people call one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def enter(self, name: Any, one: T) -> None:
        """Take `one` in; raises SencacheError for a bad name, or one that something else has."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise SencacheError(f"{name!r} cannot name a {self.kind}; use small letters and hyphens")
        if name in self and _origin(self[name]) != _origin(one):
            raise SencacheError(f"there is a {self.kind} {name!r} already; choose another name")
        self[name] = one

    def find(self, name: str) -> T:
        """That of this name; raises SencacheError where there is none."""
        if name not in self:
            raise SencacheError(f"unknown {self.kind} {name!r}; choose from {', '.join(self)}")
        return self[name]


def _origin(one: Any) -> tuple[str, str]:
    """Where it was written: what is defined again, as a notebook's cell is, takes its own place."""
    cls = one if isinstance(one, type) else type(one)
    return cls.__module__, cls.__qualname__


@dataclass(frozen=True)
class NameOf:
    """Annotates a field that holds a name of `registry`: unknown ones are refused, and the choices listed in
    its JSON schema, as they are at the time.
    """

    registry: Registry[Any]

    def _known(self, name: str) -> str:
        if name not in self.registry:
            raise PydanticCustomError("literal_error", f"choose from {', '.join(self.registry)}")
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.registry)}
