"""Replaying a report: every decision again, from its record and the profile alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from sencache.comparison.plan import FEWER_STEPS, REFERENCE
from sencache.comparison.report import Lane, ProfileRef, Report
from sencache.errors import SencacheError
from sencache.hub.exchange import kept_profile
from sencache.policies import METHODS, Full, Schedule, make_policy
from sencache.policies.loading import load_all_bundled, load_earlier, load_profile
from sencache.profiles.profile import Profile
from sencache.trace import StepRecord

FindProfile = Callable[[ProfileRef], Profile]
MEASURED = {"drift", "seconds", "cost", "correction"}


def verify(report: Report, find_profile: FindProfile | None = None) -> list[str]:
    """What does not hold in `report`, in sentences; empty when everything does.

    Decisions, scores, tolerances and derived signals are recomputed exactly from the recorded signals and the
    profile; counts, times and speed-ups must agree with the traces; the digest must be that of the content,
    which also covers the measured numbers that nothing can recompute (drift, seconds, metrics). Raises
    SencacheError only as `find_profile` does, where the profile of the run is not at hand.
    """
    find = find_profile or profiles_at_hand()
    problems = [problem for lane in report.lanes for problem in _check_lane(lane, report, find)]
    problems += _check_unfinished(report)
    if report.digest != report.content_digest():
        problems.append("the digest is not that of the content: something was changed after the run")
    return problems


def check_given(report: Report, given: Sequence[Profile]) -> None:
    """Raise SencacheError for a profile that no lane of `report` used."""
    used = {lane.profile.sha256 for lane in report.lanes if lane.profile is not None}
    hashes = ", ".join(f"{one[:12]}…" for one in sorted(used)) or "none"
    for profile in given:
        if profile.sha256 not in used:
            raise SencacheError(
                f"the report used profiles with sha256 {hashes}, the one given has {profile.sha256[:12]}…; "
                "give the profile of the run"
            )


def profiles_at_hand(given: Sequence[Profile] = (), folder: Path | None = None) -> FindProfile:
    """Look up a lane's profile by its hash: among `given`, those that come with this software, the copies of
    what was pulled from the Hub, and the files `profile*.json` in `folder`, where a report is.
    """

    def candidates(reference: ProfileRef) -> Iterator[Profile | None]:
        yield from given
        yield from load_all_bundled().values()
        yield from load_earlier()
        if reference.path and reference.repo and reference.revision:
            yield kept_profile(reference.path, reference.repo, reference.revision)
        for path in sorted(folder.glob("profile*.json")) if folder else ():
            with suppress(SencacheError):
                yield load_profile(path)

    def find(reference: ProfileRef) -> Profile:
        for profile in candidates(reference):
            if profile is not None and profile.sha256 == reference.sha256:
                return profile
        raise SencacheError(
            f"no bundled profile has sha256 {reference.sha256[:12]}… "
            f"({reference.path or reference.repo}); give the file with --profile"
        )

    return find


def _check_unfinished(report: Report) -> Iterator[str]:
    if not report.lanes:
        yield "no lane came to its end, so there is nothing to verify"
    finished = {lane.name for lane in report.lanes}
    for one in report.unfinished:
        if one.name in finished:
            yield f"{one.name}: it is listed as finished and as missing"
        if one.taken > one.steps:
            yield f"{one.name}: it is missing after {one.taken} steps of {one.steps}"


def _check_lane(lane: Lane, report: Report, find: FindProfile) -> Iterator[str]:
    full = next((other for other in report.lanes if other.method == REFERENCE), None)
    if full is None:
        yield f"{lane.name}: there is no full run to hold it against"
        return
    profile = None
    method = METHODS.get(lane.method)
    if lane.profile is not None and method is not None and method.wants_profile(lane.config):
        # A refusal of `find` is for whoever asked: only they have the file.
        profile = find(lane.profile)
    for check in (
        _replay(lane, profile),
        _check_sums(lane, full),
        _check_schedule(lane, full, report),
        _check_means(lane),
    ):
        try:
            yield from (f"{lane.name}: {problem}" for problem in check)
        except SencacheError as error:
            yield f"{lane.name}: {error}"
        except (ArithmeticError, LookupError, ValueError) as error:
            # Of numbers which no run has written.
            yield f"{lane.name}: its numbers cannot be recomputed ({error!r})"


def _replay(lane: Lane, profile: Profile | None) -> Iterator[str]:
    timesteps = tuple(record.timestep for record in lane.trace)
    sigmas = tuple(record.sigma for record in lane.trace if record.sigma is not None)
    schedule = Schedule(timesteps, sigmas if len(sigmas) == len(timesteps) else None)
    baseline = lane.method in (REFERENCE, FEWER_STEPS)
    policy = Full() if baseline else make_policy(lane.method, lane.config, profile)
    if lane.profile is not None and policy.profile is None:
        raise SencacheError(f"it names a profile, which {lane.method} does not use")
    if lane.repair is not None and lane.repair != policy.repair:
        yield f"its repair is {lane.repair}, but its settings say {policy.repair}"
    rule = policy.start(schedule)
    for index, record in enumerate(lane.trace):
        if record.step != index:
            yield f"record {index} says it is step {record.step}"
            return
        step = schedule.step(index)
        try:
            decision = rule.decide(step, partial(dict, record.signals), cached=record.reason != "no_cache")
        except (KeyError, ArithmeticError) as error:
            yield f"step {index}: its signals do not allow a decision ({error!r})"
            return
        replayed = decision.record(step, policy.cost(2))
        for name in StepRecord.model_fields.keys() - MEASURED:
            was, is_now = getattr(record, name), getattr(replayed, name)
            if not _same(was, is_now):
                yield f"step {index}: {name} is {was} on record, {is_now} when replayed"
        # How many blocks there are is not on record.
        if (record.cost is None) != (replayed.cost is None):
            yield f"step {index}: its cost is {record.cost}, which is not what its decision costs"


def _same(was: Any, is_now: Any) -> bool:
    """Up to the last digits of what exp and log give on another machine."""
    if isinstance(was, dict) and isinstance(is_now, dict):
        return was.keys() == is_now.keys() and all(_same(was[name], is_now[name]) for name in was)
    if isinstance(was, float) and isinstance(is_now, float):
        return math.isclose(was, is_now, rel_tol=1e-9)
    return bool(was == is_now)


def _check_sums(lane: Lane, full: Lane) -> Iterator[str]:
    computed = sum(record.decision == "compute" for record in lane.trace)
    expected = {
        "steps": len(lane.trace),
        "nfe": computed,
        "cache_ratio": 1 - computed / max(len(lane.trace), 1),
        "denoise_seconds": sum(record.seconds or 0.0 for record in lane.trace),
        "speedup": full.denoise_seconds / lane.denoise_seconds if lane.denoise_seconds else math.inf,
    }
    yield from _compare_values(expected, lane)
    if lane.denoise_seconds + lane.decode_seconds > lane.seconds * (1 + 1e-9):
        yield f"seconds is {lane.seconds}, less than denoising and decoding together"


def _compare_values(expected: dict[str, float], holder: object) -> Iterator[str]:
    for name, value in expected.items():
        stated = getattr(holder, name)
        if stated is None or not math.isclose(stated, value, rel_tol=1e-6, abs_tol=1e-12):
            yield f"{name} is {stated}, but its parts give {value}"


def _check_schedule(lane: Lane, full: Lane, report: Report) -> Iterator[str]:
    """The full run took the steps asked for; lanes of as many steps visit the same timesteps and sigmas."""
    if lane is full and lane.steps != report.request.steps:
        yield f"it took {lane.steps} steps, {report.request.steps} were asked for"
    if len(lane.trace) != len(full.trace):
        return
    for mine, reference in zip(lane.trace, full.trace, strict=True):
        if (mine.timestep, mine.sigma) != (reference.timestep, reference.sigma):
            yield f"step {mine.step} is at timestep {mine.timestep}, the full run at {reference.timestep}"


def _check_means(lane: Lane) -> Iterator[str]:
    if lane.metrics is None:
        return
    frames = lane.metrics.per_frame
    counts = {len(frames["lpips"]), len(frames["psnr"]), len(frames["ssim"])}
    if len(counts) > 1 or counts == {0}:
        yield "per_frame does not hold one value of each metric for every frame"
        return
    differing = [value for value in frames["psnr"] if value is not None]
    expected = {
        "lpips": fmean(frames["lpips"]),
        "ssim": fmean(frames["ssim"]),
        "identical_frames": frames["psnr"].count(None),
        "identical": not differing,
    }
    if differing and not lane.metrics.identical:
        errors = sum(10 ** (-value / 10) for value in differing)
        expected["psnr"] = -10 * math.log10(errors / len(frames["psnr"]))
        expected["psnr_frames"] = fmean(differing)
    yield from _compare_values(expected, lane.metrics)
