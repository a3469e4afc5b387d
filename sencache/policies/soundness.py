"""Whether what a profile offers can be trusted with a run: its settings exist, and something is computed.

A profile from elsewhere could hold constants and presets under which every step is reused: the run would be
fast, and its video whatever the first step made of the noise. No number is wrong on its own, so each
method is played over the profile's own schedule, with signals as large as any run shows. What reuses every
step even there would do so on any run, so nothing that computes on a real model is refused. The reverse does
not hold: a TeaCache polynomial that rises only where no signal ever goes passes here, and shows in the trace.
"""

from __future__ import annotations

from typing import Any

from sencache.errors import SencacheError
from sencache.policies import METHODS, Policy, make_policy, uses_profile
from sencache.policies.base import FORCED, Decision, Schedule
from sencache.profiles.profile import Profile

# So few steps in a row may be reused by design, on a schedule that ends with them.
HARMLESS = 10


def check_presets(profile: Profile) -> None:
    """Raise SencacheError where a preset of `profile`, or what it makes of a method's defaults, is unsound.

    Codes: those of `check_offer`, and `profile.empty` for a profile that serves no method and has no presets.
    """
    if not profile.serves and not profile.presets and profile.forecast is None:
        raise SencacheError(
            f"the profile of {profile.model.id} holds constants of no method and no presets; calibrate anew",
            "profile.empty",
        )
    for method in profile.serves:
        check_offer(profile, method, {})
    for preset in profile.presets.values():
        for method, config in preset.items():
            check_offer(profile, method, config)


def check_offer(profile: Profile, method: str, config: dict[str, Any]) -> None:
    """Raise SencacheError unless `method` under `profile` and the preset `config` is a sound choice.

    Code `profile.preset`: a method or setting that does not exist, is out of range, or needs constants that
    the profile lacks. Code `profile.reuses-everything`: along the profile's own schedule nothing but the
    steps that are forced would be computed, and more than 10 reused in a row.
    """
    if not config and method in METHODS and not uses_profile(method):
        return  # The method's own defaults, of which no profile has a part.
    try:
        policy = make_policy(method, config, profile)
        policy.check(profile.schedule.steps)
        decisions = _play(policy, profile)
    except SencacheError as error:
        raise SencacheError(str(error), error.code or "profile.preset") from None
    forced = all(decision.reuse or decision.reason in FORCED for decision in decisions)
    if forced and max(decision.reuses for decision in decisions) > HARMLESS:
        settings = str(config)[:200] if config else "its defaults"
        raise SencacheError(
            f"with the profile of {profile.model.id}, {method} would reuse every step that is not forced "
            f"(settings {settings}); choose another profile or calibrate anew",
            "profile.reuses-everything",
        )


def _play(policy: Policy, profile: Profile) -> list[Decision]:
    """The decisions over the profile's schedule, an even one where it states none that never repeats."""
    steps, stated = profile.schedule.steps, profile.schedule.timesteps
    usable = stated and len(set(stated)) == len(stated)
    even = tuple(1000 - 1000 * i / steps for i in range(steps))
    schedule = Schedule(stated if stated and usable else even)
    rule = policy.start(schedule)
    liveliest = {name: value for s in policy.senses for name, value in s.liveliest(profile).items()}
    return [rule.decide(step, lambda: liveliest) for step in schedule]
