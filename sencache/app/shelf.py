"""The profiles that the app has for a model: the one that comes with it, and those pulled at its start."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from sencache.app.palette import lane_label
from sencache.errors import SencacheError
from sencache.hub.download import Hub
from sencache.hub.official import OFFICIAL, official_file
from sencache.hub.sources import Gathered, Source, gather, parse_sources
from sencache.models.model import ModelSpec, own_profile
from sencache.profiles.profile import Profile

VARIABLE = "SENCACHE_PROFILES"
# Of the start, whatever the Hub does; the official file is a few kilobytes.
SECONDS = 60.0


@dataclass(frozen=True)
class Shelf:
    """Profiles in order of preference, and in sentences what was pulled and what could not be."""

    profiles: tuple[Profile, ...]
    told: tuple[str, ...]


def shelf(spec: ModelSpec) -> Shelf:
    """The profiles for `spec`: those measured on this very checkpoint first, and pulled ones before its own.

    The Hub is asked once per process, which is when the app starts. Raises SencacheError where the variable
    `SENCACHE_PROFILES` is no list of sources; whatever else is wrong with one is only told.
    """
    own = own_profile(spec)
    pulls = _pull_once(_sources(spec, own))
    pulled = [p for one in pulls for p in one.profiles if p.model.architecture == spec.architecture]
    profiles = sorted([*pulled, *([own] if own else [])], key=lambda p: bool(p.elsewhere(spec.id)))
    return Shelf(tuple(profiles), tuple(text for one in pulls for text in _sentences(one, spec, profiles)))


def _sources(spec: ModelSpec, own: Profile | None) -> tuple[Source, ...]:
    """Those that the owner names, else the authors' file for a model without sensitivities of its own."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        try:
            return parse_sources(given)
        except SencacheError as error:
            raise SencacheError(f"{VARIABLE} cannot be used: {error}") from None
    file = official_file(spec.architecture)
    served = own is not None and own.sensitivity is not None
    return () if served or file is None else (Source(OFFICIAL, file=file),)


@cache
def _pull_once(sources: tuple[Source, ...]) -> tuple[Gathered, ...]:
    return gather(sources, Hub(), SECONDS)


def _sentences(one: Gathered, spec: ModelSpec, profiles: Sequence[Profile]) -> Iterator[str]:
    fitting = [profile for profile in one.profiles if profile in profiles]
    for profile in fitting:
        copy = f"; the copy kept here is used: {one.trouble}" if one.trouble else ""
        yield f"{'; '.join([_service(profile, profiles), *profile.elsewhere(spec.id)])}{copy}"
    if not fitting:
        served = any(profile.sensitivity for profile in profiles)
        lacks = f"{one.source} is not used" if served else "SenCache has no profile"
        yield f"{lacks}: {_trouble(one, spec)}"


def _service(profile: Profile, profiles: Sequence[Profile]) -> str:
    """Which methods are served by `profile`, the first of `profiles` that can."""
    first = {method: next(p for p in profiles if method in p.serves) for method in profile.serves}
    methods = [lane_label(method) for method, one in first.items() if one is profile]
    name = f"{profile.origin} of {profile.repo} at commit {profile.revision}"
    return f"{' and '.join(methods)} by {name}" if methods else f"{name} serves no method here"


def _trouble(one: Gathered, spec: ModelSpec) -> str:
    try:
        for profile in one.profiles:
            profile.require(spec.architecture)
    except SencacheError as error:
        return str(error)
    return one.trouble or f"{one.source} holds none"
