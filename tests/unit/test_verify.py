"""What `verify` accepts and what it finds: every number of a report, changed one at a time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from documents import changed as changed_document
from pydantic import ValidationError

from sencache.comparison.compare import compare
from sencache.comparison.plan import parse_lanes
from sencache.comparison.report import ProfileRef, Report, Unfinished, load_report, write_report
from sencache.comparison.verify import FindProfile, check_given, profiles_at_hand, verify
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.policies import Reason
from sencache.policies.loading import load_all_bundled, load_earlier, parse_profile
from sencache.profiles.profile import Profile
from sencache.schema import Request

Path = tuple[str | int, ...]

# What was measured or is said of the run, and so cannot be derived from records and profile. `seconds` and
# `decode_seconds` must still leave room for each other.
DIGEST_ONLY = {
    *(f"request.{name}" for name in ("seed", "height", "width", "frames", "guidance_scale", "nfe")),
    *(f"lanes.{name}" for name in ("transformer_calls", "decode_seconds", "seconds", "cache_bytes")),
    "lanes.trace.drift",
    "lanes.trace.correction",
}
# What one of three forecasts missed bears on the decisions only while that one serves.
OF_ONE_FORECAST = ("lanes.trace.signals.miss_", "lanes.trace.signals.choice")
# Nothing in the report says which schedule the sampler lays out for fewer steps.
OWN_SCHEDULE = {"lanes.trace.timestep", "lanes.trace.sigma"}
# Settings need not have made a difference to the decisions on record; knobs have a test of their own.
SETTINGS = "lanes.config."
DIGEST_PROBLEM = "the digest is not that of the content: something was changed after the run"

COMPARISONS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "budget": (
        "fixed,sencache,sencache:forecast=fitted:repair=replay,magcache,teacache,easycache,control",
        ("easycache.forced_first=2",),
        {"nfe": 7, "steps": 12},
    ),
    "settings": (
        "fixed:steps=0+1+4,sencache:early_tolerance=0.7:early_fraction=0.5,"
        "magcache:threshold=0.05:max_reuses=1:retention=0.1,teacache:threshold=0.3:forced_first=3:forced_last=2,"
        "easycache:forced_first=2:forced_last=3:threshold=0.3,control:max_reuses=1:tolerance=0.4",
        ("sencache.tolerance=0.6",),
        {"steps": 12},
    ),
    "targets and forecasts": (
        "fixed:target=output:interval=3,sencache:target=output:compute_last=true,"
        "sencache:forecast=linear:target=delta:max_reuses=1,magcache:forecast=linear,teacache:target=output,"
        "easycache:target=residual:forced_first=3:threshold=0.15,control:forecast=hold:tolerance=0.3",
        ("sencache.tolerance=0.6",),
        {"steps": 12, "guidance_scale": 1.0},
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=COMPARISONS.values(), ids=COMPARISONS)
def report(request: pytest.FixtureRequest, tiny_wan: Model, bundled_profile: Profile) -> Report:
    typed, overrides, changes = request.param
    size = {"height": 64, "width": 64, "frames": 5, "guidance_scale": 4.0}
    asked = Request(prompt="a blue square", **{**size, **changes})
    return list(compare(tiny_wan, asked, parse_lanes(typed, overrides), bundled_profile))[-1].report


@pytest.fixture(scope="module")
def one(report: Report) -> dict[str, Any]:
    """The report as JSON data."""
    data: dict[str, Any] = json.loads(report.to_json())
    return data


@pytest.fixture(scope="module")
def find(bundled_profile: Profile) -> FindProfile:
    return profiles_at_hand([bundled_profile])


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, float]]:
    """Every number and where it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def field_of(path: Path) -> str:
    return ".".join(part for part in path if isinstance(part, str))


def sampled(data: dict[str, Any]) -> Iterator[tuple[Path, float]]:
    """The first number and the last of every field of every lane."""
    groups: dict[tuple[Any, str], list[tuple[Path, float]]] = defaultdict(list)
    for path, value in leaves(data):
        groups[path[1] if path[0] == "lanes" else None, field_of(path)].append((path, value))
    for found in groups.values():
        yield from {**dict(found[:1]), **dict(found[-1:])}.items()


def changed(data: dict[str, Any], path: Path, value: Any) -> Report:
    """The report with `value` at `path` and its digest as it was."""

    def replace(data: Any, path: Path) -> Any:
        if not path:
            return value
        inner = replace(data[path[0]], path[1:])
        if isinstance(data, dict):
            return {**data, path[0]: inner}
        return [inner if index == path[0] else other for index, other in enumerate(data)]

    return Report.model_validate(replace(data, path))


def slightly(value: float) -> float:
    return value + 1 if isinstance(value, int) else value * 1.001 if value else 1e-3


def lanes_of(data: dict[str, Any], method: str) -> list[int]:
    return [i for i, lane in enumerate(data["lanes"]) if lane["method"] == method]


# ---- what compare writes holds


def test_a_report_holds(report: Report, tmp_path: Any) -> None:
    for lane in report.lanes:
        assert not lane.config or 1 < lane.nfe < lane.steps, f"{lane.name} decides nothing"
    assert verify(report) == []
    write_report(report, tmp_path / "report.json")
    again = load_report(tmp_path / "report.json")
    assert again.to_json() == report.to_json()
    assert verify(again) == []


# ---- one number changed


def test_any_changed_number_is_noticed(one: dict[str, Any], find: FindProfile) -> None:
    """By the digest; where a number follows from others, also once a forger has sealed the report again."""
    findings = {path: verify(changed(one, path, slightly(value)), find) for path, value in sampled(one)}
    assert len({field_of(path) for path in findings}) > 45
    assert [path for path, problems in findings.items() if DIGEST_PROBLEM not in problems] == []
    unnoticed = {path for path, problems in findings.items() if problems == [DIGEST_PROBLEM]}
    fewer_steps = lanes_of(one, "fewer-steps")[0]
    expected = {
        path
        for path in findings
        if field_of(path) in DIGEST_ONLY or (field_of(path) in OWN_SCHEDULE and path[1] == fewer_steps)
    }
    assert {
        path for path in unnoticed if not field_of(path).startswith((SETTINGS, *OF_ONE_FORECAST))
    } == expected


# ---- one word changed


def test_another_decision_or_reason_is_noticed(one: dict[str, Any], find: FindProfile) -> None:
    flipped = {"compute": "reuse", "reuse": "compute"}
    reasons = [reason for reason in get_args(Reason) if reason != "no_cache"]
    for pair in pairs(one):
        for path, was in words(pair, "decision"):
            problems = verify(changed(pair, path, flipped[was]), find)
            assert any("decision is" in problem for problem in problems), path
        for count, (path, was) in enumerate(words(pair, "reason")):
            other = next(reason for reason in reasons[count % len(reasons) :] + reasons if reason != was)
            problems = verify(changed(pair, path, other), find)
            assert any(f"reason is {other}" in problem for problem in problems), path


def pairs(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each lane beside the full run alone: no decision rests on another lane."""
    for lane in data["lanes"][1:]:
        yield {**data, "lanes": [data["lanes"][0], lane]}


def words(data: dict[str, Any], name: str) -> Iterator[tuple[Path, str]]:
    """Where the caching lanes' records hold `name`, and what it is."""
    for i, lane in enumerate(data["lanes"]):
        for j, record in enumerate(lane["trace"] if lane["config"] else ()):
            yield ("lanes", i, "trace", j, name), record[name]


def test_a_dropped_step_is_noticed(one: dict[str, Any], find: FindProfile) -> None:
    for index, lane in enumerate(one["lanes"]):
        for step in (0, len(lane["trace"]) // 2, len(lane["trace"]) - 1):
            trace = lane["trace"][:step] + lane["trace"][step + 1 :]
            assert verify(changed(one, ("lanes", index, "trace"), trace).seal(), find), (lane["name"], step)
        assert verify(changed(one, ("lanes", index, "trace"), []).seal(), find), lane["name"]


def test_a_knob_is_noticed_wherever_it_was_used(one: dict[str, Any], find: FindProfile) -> None:
    knobs = {"sencache": "tolerance", "magcache": "threshold", "teacache": "threshold"}
    knobs |= {"easycache": "threshold", "control": "tolerance"}
    for method, knob in knobs.items():
        for lane in lanes_of(one, method):
            if one["lanes"][lane]["config"].get("budget"):
                continue  # The tolerance follows from it.
            path = ("lanes", lane, "config", knob)
            report = changed(one, path, slightly(one["lanes"][lane]["config"][knob])).seal()
            assert any("tolerance is" in problem for problem in verify(report, find)), path


def test_a_problem_says_where_and_what(one: dict[str, Any], find: FindProfile) -> None:
    lane = lanes_of(one, "sencache")[0]
    name, trace = one["lanes"][lane]["name"], one["lanes"][lane]["trace"]
    step, record = next((i, r) for i, r in enumerate(trace) if r["score"] is not None)
    problems = verify(changed(one, ("lanes", lane, "trace", step, "score"), 12.5), find)
    assert f"{name}: step {step}: score is 12.5 on record, {record['score']} when replayed" in problems
    assert DIGEST_PROBLEM in problems and len(problems) == 2


# ---- another profile


OTHER = parse_profile(json.dumps(changed_document("magcache/ratios", [1.0] * 50)))


def test_another_profile_is_refused_by_its_hash_and_its_constants_are_noticed(
    report: Report, bundled_profile: Profile
) -> None:
    given = f"sha256 {bundled_profile.sha256[:12]}…, the one given has {OTHER.sha256[:12]}…; give the profile"
    with pytest.raises(SencacheError, match=given):
        check_given(report, [bundled_profile, OTHER])
    problems = verify(report, lambda _: OTHER)
    assert any(problem.startswith("magcache: step ") for problem in problems)


def test_another_forecast_table_is_noticed_in_what_control_expects(
    report: Report, bundled_profile: Profile
) -> None:
    """One mean square a hundredth larger, of the step nearest to the run's fifth."""
    lane = next(lane for lane in report.lanes if lane.method == "control")
    times, table = bundled_profile.schedule.timesteps, bundled_profile.forecast
    assert times is not None and table is not None
    near = min(range(len(times)), key=lambda k: abs(times[k] - lane.trace[4].timestep))
    larger = changed_document(f"forecast/table/{near}/{near}", 1.01 * table.table[near][near])
    problems = verify(report, lambda _: parse_profile(json.dumps(larger)))
    noticed = any(p.startswith("control: step ") and ": score is" in p for p in problems)
    assert noticed == (lane.config["forecast"] == "fitted")
    assert all(problem.startswith("control: ") for problem in problems)


def test_a_profile_that_is_not_bundled_is_asked_for(one: dict[str, Any]) -> None:
    lane = lanes_of(one, "magcache")[0]
    report = changed(one, ("lanes", lane, "profile", "sha256"), "0" * 64)
    with pytest.raises(SencacheError, match=r"no bundled profile has sha256 0{12}… .*--profile"):
        verify(report)


# ---- reports that no comparison wrote


def test_a_forged_record_is_a_problem_not_a_crash(one: dict[str, Any], find: FindProfile) -> None:
    for pair in pairs(one):
        for path, was in words(pair, "signals"):
            if was:
                assert any("signals" in problem for problem in verify(changed(pair, path, {}), find)), path
        for path, _ in words(pair, "reason"):
            assert verify(changed(pair, path, "no_cache"), find)


def test_a_report_without_a_full_run_is_a_problem_not_a_crash(one: dict[str, Any], find: FindProfile) -> None:
    problems = verify(changed(one, ("lanes",), one["lanes"][1:]).seal(), find)
    assert len(problems) == len(one["lanes"]) - 1
    assert all("there is no full run" in problem for problem in problems)


def test_lanes_that_are_missing_are_checked_too(report: Report) -> None:
    """A report without them is written as before there were any, so that its digest stays."""
    gone = Unfinished(name="gone", method="control", taken=3, steps=9, why="12 s were left")
    partial = report.model_copy(update={"unfinished": (gone,)})
    assert "unfinished" not in report.to_json()
    assert verify(partial) == [DIGEST_PROBLEM] and verify(partial.seal()) == []
    again = gone.model_copy(update={"name": report.lanes[0].name, "taken": 10})
    assert verify(report.model_copy(update={"unfinished": (again,)}).seal()) == [
        "none: it is listed as finished and as missing",
        "none: it is missing after 10 steps of 9",
    ]
    empty = partial.model_copy(update={"lanes": ()}).seal()
    assert verify(empty) == ["no lane came to its end, so there is nothing to verify"]


@pytest.mark.parametrize(("metric", "value"), [("lpips", []), ("ssim", [0.5]), ("psnr", 1e6), ("psnr", -1e6)])
def test_forged_metrics_are_a_problem_not_a_crash(
    one: dict[str, Any], find: FindProfile, metric: str, value: Any
) -> None:
    for pair in pairs(one):
        lane = pair["lanes"][1]
        path = ("lanes", 1, "metrics", "per_frame", metric)
        values = value if isinstance(value, list) else [value] * len(lane["metrics"]["per_frame"][metric])
        problems = verify(changed(pair, path, values).seal(), find)
        assert problems and all(problem.startswith(f"{lane['name']}: ") for problem in problems)


def test_settings_that_no_run_can_have_are_a_problem_not_an_error(
    one: dict[str, Any], find: FindProfile
) -> None:
    lane = lanes_of(one, "magcache")[0]
    forged = {"method": "telepathy", "config": {"threshold": "high"}, "profile": None}
    for field, value in forged.items():
        problems = verify(changed(one, ("lanes", lane, field), value).seal(), find)
        assert len(problems) == 1 and problems[0].startswith(one["lanes"][lane]["name"]), field
    lane = lanes_of(one, "fixed")[0]
    reference = {"sha256": "0" * 64}
    (problem,) = verify(changed(one, ("lanes", lane, "profile"), reference).seal(), find)
    assert "names a profile, which fixed does not use" in problem


@pytest.mark.parametrize("value", [10**400, -1e308, -1])
def test_no_number_whatever_makes_it_crash(one: dict[str, Any], find: FindProfile, value: float) -> None:
    for nth, pair in enumerate(pairs(one)):
        for path, was in sampled(pair):
            if nth and path[:2] != ("lanes", 1):
                continue
            try:
                report = changed(pair, path, type(was)(value))
            except (ValidationError, OverflowError):
                continue
            assert DIGEST_PROBLEM in verify(report, find), path


def test_reports_of_before_find_the_profiles_of_before() -> None:
    """What comes with the software changes; a report names its profile by the content's hash."""
    earlier, newest = load_earlier(), load_all_bundled()
    assert len(earlier) == 3
    for profile in earlier:
        assert profiles_at_hand()(ProfileRef.of(profile)) is profile
        assert newest[str(profile.origin).removesuffix(".json")].sha256 != profile.sha256
