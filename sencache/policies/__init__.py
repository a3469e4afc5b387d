"""WHEN to reuse: one file per method, pure decisions on numbers."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sencache.errors import SencacheError
from sencache.policies.base import METHODS, Decision, Policy, Reason, Rule, Schedule, Step, register
from sencache.policies.look import Look, plain_look
from sencache.profiles.profile import Profile
from sencache.schema import first_problem

# In the order in which they are shown. Every file here is read, and a method enters itself when it is.
from sencache.policies.none import Full  # isort: skip
from sencache.policies.fixed import Fixed  # isort: skip
from sencache.policies.sencache import SenCache  # isort: skip
from sencache.policies.magcache import MagCache  # isort: skip
from sencache.policies.teacache import TeaCache  # isort: skip
from sencache.policies.easycache import EasyCache  # isort: skip
from sencache.policies.control import Control  # isort: skip


def uses_profile(method: str) -> bool:
    """Whether `method` needs a calibrated profile, whatever its settings."""
    return METHODS[method].needs_profile()


def settings(method: str) -> list[str]:
    """The names that `method` can be configured with."""
    return [field.name for field in fields(METHODS[method]) if field.name != "profile"]


def make_policy(method: str, config: dict[str, Any], profile: Profile | None = None) -> Policy:
    """The policy `method` with `config`, whose values may be strings as typed on a command line, and with
    `profile` if it has a use for one.

    Raises SencacheError for an unknown method, an unknown setting, a value out of range or a missing profile.
    """
    METHODS.find(method)
    unknown = sorted(set(config) - set(settings(method)))
    if unknown:
        raise SencacheError(f"{method} has no setting {unknown[0]!r}; it has {', '.join(settings(method))}")
    if profile is None and uses_profile(method):
        raise SencacheError(
            f"{method} needs a calibrated profile; calibrate this model or choose another method"
        )
    if profile is not None and METHODS[method].wants_profile(config):
        config = {"profile": profile, **config}
    return _build(method, config)


def _build(method: str, config: dict[str, Any]) -> Policy:
    try:
        return METHODS[method](**config)
    except ValidationError as error:
        where, value, problem = first_problem(error)
        raise SencacheError(f"{method}.{where} is {value!r} ({problem}); correct this setting") from None


def look_of(method: str) -> Look:
    """How `method` is shown: its own look, or one made from its name."""
    cls = METHODS.get(method)
    return (cls.look if cls else None) or plain_look(method)


def words() -> dict[str, str]:
    """What people call the signals of all methods."""
    found: dict[str, str] = {}
    for cls in METHODS.values():
        for sense in cls.senses:
            found |= sense.words
        found |= cls.words
    return found


for _file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    import_module(f"{__name__}.{_file.stem}")

__all__ = [
    "METHODS",
    "Control",
    "Decision",
    "EasyCache",
    "Fixed",
    "Full",
    "Look",
    "MagCache",
    "Policy",
    "Profile",
    "Reason",
    "Rule",
    "Schedule",
    "SenCache",
    "Step",
    "TeaCache",
    "look_of",
    "make_policy",
    "register",
    "settings",
    "uses_profile",
    "words",
]
