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
from sencache.policies import METHODS
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


def sencache_profile(report: Report, profiles: Sequence[Profile]) -> Profile | None:
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
    """Python that makes each lane again with `sencache.attach`, by the lane's name, on the first of the
    report's devices, which gives its precision. `files` are the profiles that are handed over.

    Every text that a user typed appears as a Python literal.
    """
    names = {profile.sha256: name for name, profile in files.items()}
    return {lane.name: _snippet(report, lane, names) for lane in report.lanes}


def _snippet(report: Report, lane: Lane, names: Mapping[str, str]) -> str:
    method = METHODS.get(lane.method)
    device = report.model.device.partition(",")[0]
    # The lane's settings were set for the budget and the preset already.
    asked = report.request.model_dump(exclude={"nfe", "preset", "image"}, exclude_defaults=True)
    request = _call(
        "request = sencache.Request", **{**asked, "seed": report.request.seed, "steps": lane.steps}
    )
    model = f"model = sencache.load({report.model.key!r}, {device!r})\n{request}"
    if method is None or not method.caches:
        return f"import sencache\n\n{model}{ENCODED}{VIDEO}\n"
    library, load = "", ""
    first: tuple[str, ...] = ()
    if lane.profile:
        path = repr(names.get(lane.profile.sha256))
        if lane.profile.sha256 not in names:
            library = "from sencache.profiles.library import bundled_profile\n"
            path = f"bundled_profile({Path(lane.profile.path or '').stem!r})"
        load, first = f"profile = sencache.load_profile({path})\n", ("profile=profile",)
    given = {key: value for key, value in lane.config.items() if value is not None}
    policy = _call(f"policy = sencache.{method.__name__}", *first, **given)
    return (
        f"import sencache\n{library}\n{model}{load}{policy}{ENCODED}\n"
        f"with sencache.attach(model.pipe, policy) as trace:\n    {VIDEO}\n"
        f"print(trace)  # {lane.nfe} of {lane.steps} steps computed\n"
    )


def _call(function: str, *first: str, **given: Any) -> str:
    rows = [*first, *(f"{name}={value!r}" for name, value in given.items())]
    return "\n    ".join([f"{function}(", *(f"{row}," for row in rows)]) + "\n)\n"
