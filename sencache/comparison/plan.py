"""From what a user typed to the lanes of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sencache.calibration.budget import check_budget, match_nfe
from sencache.calibration.recording import Recording
from sencache.errors import SencacheError
from sencache.policies import METHODS, Full, Policy, make_policy, settings, uses_profile
from sencache.policies.soundness import check_offer
from sencache.profiles.profile import Profile
from sencache.schema import Request

REFERENCE = "none"
FEWER_STEPS = "fewer-steps"
LISTS = {"steps"}


def method_names() -> list[str]:
    """Of everything that can be a lane."""
    return [REFERENCE, FEWER_STEPS, *(name for name in METHODS if name != REFERENCE)]


@dataclass(frozen=True)
class LaneSpec:
    """One lane as asked for: `given` holds the settings that the user chose, as typed or of its own type."""

    name: str
    method: str
    given: dict[str, Any] = field(default_factory=dict)


def parse_lanes(methods: str, overrides: Sequence[str] = ()) -> list[LaneSpec]:
    """Lanes as typed: `methods` separated by commas, with `method.key=value` overrides; see `make_lanes`."""
    settings: dict[str, dict[str, Any]] = {}
    for text in overrides:
        method, dot, option = text.partition(".")
        if not dot:
            raise SencacheError(f"cannot read the setting {text!r}; write it as method.key=value")
        _check_method(method)
        key, value = _parse_setting(method, option)
        settings.setdefault(method, {})[key] = value
    return make_lanes(methods.split(","), settings)


def make_lanes(texts: Sequence[str], common: Mapping[str, Mapping[str, Any]]) -> list[LaneSpec]:
    """Lanes from `method[:key=value...]` each, with the settings that all lanes of a method have in `common`.

    The full run and fewer-steps are added where missing: they are always shown, the full run first. A lane is
    named after its method, or as typed where several share one. Raises SencacheError on unknown names and on
    lanes given twice.
    """
    typed = [text.strip() for text in texts if text.strip()]
    if len(set(typed)) < len(typed):
        twice = next(text for text in typed if typed.count(text) > 1)
        raise SencacheError(f"lane {twice!r} is given twice; give it once or with other settings")
    shared: dict[str, dict[str, Any]] = {}
    for method, given in common.items():
        _check_method(method)
        shared[method] = {key: _read_setting(method, key, v, f"{key}={v}") for key, v in given.items()}
    parsed = [_parse_lane(text) for text in typed]
    names = [method for method, _ in parsed]
    unused = sorted(set(shared) - set(names))
    if unused:
        raise SencacheError(
            f"a setting for {unused[0]!r} is given, but no lane runs it; add it to the methods"
        )
    lanes = []
    for text, (method, given) in zip(typed, parsed, strict=True):
        name = method if names.count(method) == 1 else text
        lanes.append(LaneSpec(name, method, {**shared.get(method, {}), **given}))
    return with_baselines(lanes)


def with_baselines(lanes: Sequence[LaneSpec]) -> list[LaneSpec]:
    """`lanes` with the full run and fewer-steps added where they are missing, the full run first."""
    missing = [b for b in (REFERENCE, FEWER_STEPS) if not any(lane.method == b for lane in lanes)]
    added = [*lanes, *(LaneSpec(baseline, baseline) for baseline in missing)]
    return sorted(added, key=lambda lane: lane.method != REFERENCE)


def _parse_lane(text: str) -> tuple[str, dict[str, Any]]:
    method, *options = text.split(":")
    _check_method(method)
    given = [_parse_setting(method, option) for option in options]
    if len(dict(given)) < len(given):
        raise SencacheError(f"lane {text!r} gives a setting twice; give it once")
    return method, dict(given)


def _check_method(method: str) -> None:
    if method not in method_names():
        raise SencacheError(f"unknown method {method!r}; choose from {', '.join(method_names())}")


def _parse_setting(method: str, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    return key, _read_setting(method, key if equals else "", value, text)


def _read_setting(method: str, key: str, value: Any, text: str) -> Any:
    """`value`, of a list its items; raises SencacheError naming `text` where `method` has no such setting."""
    allowed = [] if method in (REFERENCE, FEWER_STEPS) else settings(method)
    if key not in allowed:
        names = ", ".join(allowed) or "no settings"
        raise SencacheError(f"{method} cannot take {text!r}; write key=value with one of: {names}")
    if key not in LISTS or isinstance(value, tuple):
        return value
    return tuple(value.split("+")) if isinstance(value, str) else (value,)


@dataclass(frozen=True)
class Planned:
    """A lane ready to run: its policy, and the number of steps where it differs from the request's."""

    spec: LaneSpec
    policy: Policy
    steps: int


def plan_lane(spec: LaneSpec, request: Request, profiles: Sequence[Profile]) -> Planned:
    """The lane's policy: its defaults, then the request's preset, then what the user gave.

    `profiles` are in order of preference: the method's constants are those of the first that has them, the
    preset is that of the first that has it for the method.

    Raises SencacheError for settings out of range, an unknown preset, a method whose profile is missing, or
    settings that rule the budget out.
    """
    preset = _find_preset(spec.method, request.preset, profiles)
    if spec.method in (REFERENCE, FEWER_STEPS):
        return Planned(spec, Full(), request.steps)
    config = {**preset, **spec.given}
    profile = _choose_profile(spec.method, config, profiles)
    if profile is not None:
        check_offer(profile, spec.method, preset)
    policy = make_policy(spec.method, config, profile)
    policy.check(request.steps)
    if request.nfe is not None:
        check_budget(policy, request.steps, request.nfe, spec.given)
    return Planned(spec, policy, request.steps)


def _choose_profile(method: str, config: dict[str, Any], profiles: Sequence[Profile]) -> Profile | None:
    """The first that has all that the method wants with these settings, else its constants, else anything."""
    serving = [p for p in profiles if not uses_profile(method) or method in p.serves]
    fits = METHODS[method].fits(config)
    whole = (profile for profile in serving if profile.forecast is not None or not fits)
    return next(whole, next(iter(serving), next(iter(profiles), None)))


def _find_preset(method: str, preset: str | None, profiles: Sequence[Profile]) -> dict[str, Any]:
    if preset is None:
        return {}
    found = [profile.presets[preset] for profile in profiles if preset in profile.presets]
    if not found:
        known = ", ".join(dict.fromkeys(name for profile in profiles for name in profile.presets))
        raise SencacheError(
            f"unknown preset {preset!r}; this model has: {known or 'none, it has no profile'}"
        )
    return dict(next((settings[method] for settings in found if method in settings), {}))


def with_budget(planned: Planned, nfe: int, recording: Recording | None = None) -> Planned:
    """`planned` with the knob that meets `nfe` on the full run on record; fewer-steps needs no record."""
    if planned.spec.method == FEWER_STEPS:
        return replace(planned, steps=min(nfe, planned.steps))
    assert recording is not None
    return replace(planned, policy=match_nfe(planned.policy, [recording], nfe, planned.spec.given))
