"""What a finished comparison is handed over as: a table of steps, an archive, code that repeats a lane."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sencache.errors import SencacheError
from sencache.policies import METHODS, uses_profile
from sencache.profile import Profile
from sencache.report import Lane, Report
from sencache.verify import bundled_by_hash

CSV_NAME, ZIP_NAME, PROFILE_NAME = "traces.csv", "comparison.zip", "profile.json"

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


def profile_of(report: Report) -> Profile | None:
    """The bundled profile that a lane of `report` used, if there is one."""
    used = next((lane.profile for lane in report.lanes if lane.profile is not None), None)
    try:
        return bundled_by_hash(used) if used else None
    except SencacheError:
        return None


def snippets(report: Report, profile: Profile | None) -> dict[str, str]:
    """Code that repeats each lane, by the lane's name; `profile` is the one that was used."""
    origin = profile.origin if profile else None
    path = f"bundled_profile({Path(origin).stem!r})" if origin else repr(PROFILE_NAME)
    return {lane.name: snippet(report, lane, path) for lane in report.lanes}


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
    library = "from sencache.library import bundled_profile\n" if needs and "(" in profile else ""
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
