"""What a finished comparison is handed over as: a table of steps, an archive, code that repeats a lane."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sencache.comparison.report import Lane, Report
from sencache.comparison.verify import profiles_at_hand
from sencache.errors import SencacheError
from sencache.policies import METHODS, uses_profile
from sencache.policies.loading import load_all_bundled
from sencache.profiles.profile import Profile

CSV_NAME, ZIP_NAME = "traces.csv", "comparison.zip"

# What a pipeline is called with is the model's own business: it differs by family and by checkpoint.
ENCODED = "encoded = model.encode(request.prompt, request.negative_prompt, request.guidance_scale)\n"
VIDEO = "video = model.generate(model.pipe, encoded, request)"

COLUMNS = (
    *("step", "timestep", "sigma", "decision", "reason", "score", "tolerance", "reference_step", "reuses"),
    *("drift", "seconds"),
)


def traces_csv(report: Report) -> str:
    """All steps of all lanes as CSV, one column per signal that any method looked at."""
    signals = list(dict.fromkeys(name for lane in report.lanes for r in lane.trace for name in r.signals))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["lane", "method", *COLUMNS, *signals])
    for lane in report.lanes:
        for record in lane.trace:
            values = [getattr(record, column) for column in COLUMNS]
            writer.writerow([lane.name, lane.method, *values, *(record.signals.get(s) for s in signals)])
    return out.getvalue()


def pack(report: Report, source: Path, target: Path) -> None:
    """Into `target`: the steps as CSV, and a zip of that and of everything in `source`, where `report` is."""
    table = target / CSV_NAME
    table.write_text(traces_csv(report), encoding="utf-8")
    files = [path for path in sorted(source.iterdir()) if path.is_file() and path.name != ZIP_NAME]
    # Stored, not deflated: nearly all of it is video.
    with zipfile.ZipFile(target / ZIP_NAME, "w") as packed:
        for path in dict.fromkeys([*files, table]):
            packed.write(path, path.name)


def profiles_of(report: Report, folder: Path) -> tuple[Profile, ...]:
    """The profiles that the lanes of `report`, a file of `folder`, used, as far as they are at hand."""
    find, found = profiles_at_hand(folder=folder), list[Profile]()
    for reference in {lane.profile.sha256: lane.profile for lane in report.lanes if lane.profile}.values():
        with suppress(SencacheError):
            found.append(find(reference))
    return tuple(found)


def walked(report: Report, profiles: Sequence[Profile]) -> Profile | None:
    """That of `profiles` which a SenCache lane of `report` walked along, else the first."""
    used = {lane.profile.sha256 for lane in report.lanes if lane.profile and lane.method == "sencache"}
    return next((p for p in profiles if p.sha256 in used), next(iter(profiles), None))


def profile_files(report: Report, profiles: Sequence[Profile]) -> dict[str, Profile]:
    """Those of `profiles` that a lane of `report` used and that do not come with this software, by the names
    of the files in which they are handed over.
    """
    used = {lane.profile.sha256 for lane in report.lanes if lane.profile}
    bundled = {profile.sha256 for profile in load_all_bundled().values()}
    own = {p.sha256: p for p in profiles if p.sha256 in used - bundled}
    return {f"profile-{n}.json" if n > 1 else "profile.json": p for n, p in enumerate(own.values(), 1)}


def snippets(report: Report, files: Mapping[str, Profile]) -> dict[str, str]:
    """Code that repeats each lane, by the lane's name; `files` are the profiles that are handed over."""
    paths = {profile.sha256: repr(name) for name, profile in files.items()}
    return {lane.name: snippet(report, lane, _path(lane, paths)) for lane in report.lanes}


def _path(lane: Lane, paths: Mapping[str, str]) -> str:
    if lane.profile is None:
        return ""
    return paths.get(lane.profile.sha256) or f"bundled_profile({Path(lane.profile.path or '').stem!r})"


def snippet(report: Report, lane: Lane, profile: str) -> str:
    """Python that makes this lane again with `sencache.attach`, on the first of the report's devices, which
    gives its precision.

    `profile` is the expression that gives its profile's path. Every text that a user typed appears as a
    Python literal.
    """
    method = METHODS.get(lane.method)
    device = report.model.device.partition(",")[0]
    model = f"model = sencache.load({report.model.key!r}, {device!r})\n{_request(report, lane)}"
    if method is None or not method.caches:
        return f"import sencache\n\n{model}{ENCODED}{VIDEO}\n"
    needs = uses_profile(lane.method)
    library = "from sencache.profiles.library import bundled_profile\n" if needs and "(" in profile else ""
    load = f"profile = sencache.load_profile({profile})\n" if needs else ""
    given = {key: value for key, value in lane.config.items() if value is not None}
    policy = _called(f"policy = sencache.{method.__name__}", given, ["profile"] if needs else [])
    return (
        f"import sencache\n{library}\n{model}{load}{policy}{ENCODED}\n"
        f"with sencache.attach(model.pipe, policy) as trace:\n    {VIDEO}\n"
        f"print(trace)  # {lane.nfe} of {lane.steps} steps computed\n"
    )


def _request(report: Report, lane: Lane) -> str:
    # The lane's settings were set for the budget and the preset already.
    given = report.request.model_dump(exclude={"nfe", "preset", "image"}, exclude_defaults=True)
    return _called("request = sencache.Request", {**given, "seed": report.request.seed, "steps": lane.steps})


def _called(function: str, given: dict[str, Any], first: Sequence[str] = ()) -> str:
    rows = [*first, *(f"{name}={value!r}" for name, value in given.items())]
    return "\n    ".join([f"{function}(", *(f"{row}," for row in rows)]) + "\n)\n"
