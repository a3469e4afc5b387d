"""WHEN to reuse: one file per method, pure decisions on numbers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from sencache.errors import SencacheError
from sencache.policies.base import Decision, Forecast, Policy, Reason, Rule, Schedule, Step, Target
from sencache.policies.control import Control
from sencache.policies.easycache import EasyCache
from sencache.policies.fixed import Fixed
from sencache.policies.magcache import MagCache
from sencache.policies.none import Full
from sencache.policies.sencache import SenCache
from sencache.policies.teacache import TeaCache
from sencache.profiles.profile import Profile
from sencache.schema import first_problem

METHODS: dict[str, type[Policy]] = {
    cls.name: cls for cls in (Full, Fixed, SenCache, MagCache, TeaCache, EasyCache, Control)
}


def uses_profile(method: str) -> bool:
    """Whether `method` needs a calibrated profile."""
    return any(field.name == "profile" for field in fields(METHODS[method]))


def settings(method: str) -> list[str]:
    """The names that `method` can be configured with."""
    return [field.name for field in fields(METHODS[method]) if field.name != "profile"]


def make_policy(method: str, config: dict[str, Any], profile: Profile | None = None) -> Policy:
    """The policy `method` with `config`, whose values may be strings as typed on a command line.

    Raises SencacheError for an unknown method, an unknown setting, a value out of range or a missing profile.
    """
    if method not in METHODS:
        raise SencacheError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    unknown = sorted(set(config) - set(settings(method)))
    if unknown:
        raise SencacheError(f"{method} has no setting {unknown[0]!r}; it has {', '.join(settings(method))}")
    if not uses_profile(method):
        return _build(method, config)
    if profile is None:
        raise SencacheError(
            f"{method} needs a calibrated profile; calibrate this model or choose another method"
        )
    return _build(method, {"profile": profile, **config})


def _build(method: str, config: dict[str, Any]) -> Policy:
    try:
        return METHODS[method](**config)
    except ValidationError as error:
        where, value, problem = first_problem(error)
        raise SencacheError(f"{method}.{where} is {value!r} ({problem}); correct this setting") from None


__all__ = [
    "METHODS",
    "Control",
    "Decision",
    "EasyCache",
    "Fixed",
    "Forecast",
    "Full",
    "MagCache",
    "Policy",
    "Profile",
    "Reason",
    "Rule",
    "Schedule",
    "SenCache",
    "Step",
    "Target",
    "TeaCache",
    "make_policy",
    "settings",
    "uses_profile",
]
