"""A comparison that was checked and planned once: whatever estimates, runs or shows it takes it as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sencache.comparison import plan
from sencache.models.checks import check_request
from sencache.models.spec import ModelSpec
from sencache.profiles.profile import Profile
from sencache.schema import Request


@dataclass(frozen=True)
class Job:
    """What is going to run on which model: the lanes, the full run among them, each with its policy.

    `profiles` are those that the lanes' policies were made from, in order of preference. Plain data, which
    crosses to another process as it is.
    """

    spec: ModelSpec
    request: Request
    lanes: tuple[plan.Planned, ...]
    profiles: tuple[Profile, ...] = ()


def make_job(
    spec: ModelSpec,
    request: Request,
    lanes: Sequence[plan.LaneSpec],
    profiles: Profile | Sequence[Profile] | None = None,
) -> Job:
    """`lanes` and the two baselines of `request` on the model of `spec`, each with the constants of the first
    of `profiles` that serves its method. Costs nothing: no model is loaded.

    Raises SencacheError, with the offending value and the remedy, for whatever could not run.
    """
    check_request(spec, request)
    several = (profiles,) if isinstance(profiles, Profile) else tuple(profiles or ())
    for profile in several:
        profile.require(spec.architecture)
    planned = tuple(plan.plan_lane(lane, request, several) for lane in plan.with_baselines(lanes))
    for one in planned:
        one.policy.require(spec.architecture)
    return Job(spec, request, planned, several)
