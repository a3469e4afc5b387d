"""What a finished comparison is handed over as: a table of all steps, an archive, and code that repeats a lane."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from textwrap import indent

from sencache.policies import METHODS, uses_profile
from sencache.report import Lane, Report

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


def archive(folder: Path, name: str) -> Path:
    """`folder/name`: an uncompressed zip of all the folder's other files (the videos are compressed)."""
    target = folder / name
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path != target]
    with zipfile.ZipFile(target, "w") as packed:
        for path in files:
            packed.write(path, path.name)
    return target


def snippet(report: Report, lane: Lane, profile: str, sequence_length: int) -> str:
    """Python that makes this lane again with `sencache.attach`.

    `profile` is the expression that gives its profile's path, `sequence_length` that of the prompt's
    encoding. Every text that a user typed appears as a Python literal.
    """
    method = METHODS.get(lane.method)
    call = _call(report, lane, sequence_length)
    head = f"import torch\n\nimport sencache\n\npipe = sencache.load({report.model.key!r}).pipe\n"
    if method is None or not method.caches:
        return f"{head}{call}\n"
    needs = uses_profile(lane.method)
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
