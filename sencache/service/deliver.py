"""What a finished comparison is handed over as: a table of steps, an archive, code that repeats a lane."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from textwrap import indent

from sencache.errors import SencacheError
from sencache.models.model import model_spec
from sencache.policies import METHODS, uses_profile
from sencache.profile import Profile
from sencache.report import Lane, Report
from sencache.verify import bundled_by_hash

REPORT_NAME, CSV_NAME, ZIP_NAME, PROFILE_NAME = "report.json", "traces.csv", "comparison.zip", "profile.json"

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
    length = model_spec(report.model.key).max_sequence_length
    return {lane.name: snippet(report, lane, path, length) for lane in report.lanes}


def snippet(report: Report, lane: Lane, profile: str, sequence_length: int) -> str:
    """Python that makes this lane again with `sencache.attach`.

    `profile` is the expression that gives its profile's path, `sequence_length` that of the prompt's
    encoding. Every text that a user typed appears as a Python literal.
    """
    method = METHODS.get(lane.method)
    call = _call(report, lane, sequence_length)
    load_pipe = f"pipe = sencache.load({report.model.key!r}).pipe\n"
    if method is None or not method.caches:
        return f"import torch\n\nimport sencache\n\n{load_pipe}{call}\n"
    needs = uses_profile(lane.method)
    library = "from sencache.library import bundled_profile\n" if needs and "(" in profile else ""
    head = f"import torch\n\nimport sencache\n{library}\n{load_pipe}"
    load = f"profile = sencache.load_profile({profile})\n" if needs else ""
    given = [f"{key}={value!r}" for key, value in lane.config.items() if value is not None]
    arguments = ",\n    ".join([*(["profile"] if needs else []), *given])
    return (
        f"{head}{load}policy = sencache.{method.__name__}(\n    {arguments},\n)\n\n"
        f"with sencache.attach(pipe, policy) as trace:\n{indent(call, '    ')}\n"
        f"print(trace)  # {lane.nfe} of {lane.steps} steps computed\n"
    )


def _call(report: Report, lane: Lane, sequence_length: int) -> str:
    request = report.request
    arguments = {
        "prompt": request.prompt,
        **({"negative_prompt": request.negative_prompt} if request.negative_prompt else {}),
        "height": request.height,
        "width": request.width,
        "num_frames": request.frames,
        "num_inference_steps": lane.steps,
        "guidance_scale": request.guidance_scale,
        "max_sequence_length": sequence_length,
    }
    rows = [f"    {name}={value!r},\n" for name, value in arguments.items()]
    seed = f"    generator=torch.Generator().manual_seed({request.seed}),\n"
    return f"video = pipe(\n{''.join(rows)}{seed}).frames[0]"
