"""Quality at equal cost of every way to reuse a step: the rules as published, repaired, and our own.

    PYTHONPATH=. python tests/benchmarks/replay.py --model tiny-wan --out replay-tiny-wan.json
    PYTHONPATH=. python tests/benchmarks/replay.py --table replay-*.json

On the held-out prompts of `testbed.py`. One full run per prompt serves all budgets: every lane's knob is set
on its record, so that all cost the same. What is stored after every prompt is not made again. `--table`
prints means and worst clips, differences to fewer steps with their 95 % intervals (paired bootstrap over the
prompts that both lanes have), and which targets are met.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import testbed
from replay_tables import (
    COLUMNS,
    CONTROL,
    FEWER,
    FITTED,
    HOLD,
    LINEAR,
    PUBLISHED,
    REPLAY,
    Row,
    rows_of,
    table,
)

import sencache
from sencache.calibration.recording import Recorder
from sencache.comparison.job import make_job
from sencache.comparison.lanes import Finished, Frames, lane
from sencache.comparison.metrics import compare_frames
from sencache.comparison.plan import LaneSpec, Planned, with_budget
from sencache.files import atomic
from sencache.models.model import Model, own_profile
from sencache.policies import Full, Policy
from sencache.policies.loading import load_profile
from sencache.profiles.profile import Profile
from sencache.schema import Request
from sencache.versions import versions

MAIN = (FEWER, CONTROL, LINEAR, HOLD, "sencache", f"sencache{REPLAY}", f"sencache{FITTED}")
MORE = tuple(f"{rule}{way}" for rule in (*PUBLISHED[1:], "fixed") for way in ("", REPLAY, FITTED))
# Below this budget, on another sampler or at another guidance scale only the main lanes run.
LEAST_FOR_ALL = 20


def main() -> None:
    """Measure and write, or print the tables of what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-wan")
    parser.add_argument("--sampler", help="the model's own if not given")
    parser.add_argument("--guidance", type=float, help="the model's own if not given")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--nfe", default="25,20,15,12", help="budgets, comma-separated")
    parser.add_argument("--lanes", help="comma-separated; fitting ones if not given")
    parser.add_argument("--profile", type=Path, help="the model's own if not given")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="print the tables of these results")
    args = parser.parse_args()
    if args.table:
        print("\n\n".join(table(json.loads(path.read_text())) for path in args.table))
    elif args.out:
        measure(args)
    else:
        parser.error("give --out or --table")


def measure(args: argparse.Namespace) -> None:
    """Make what is missing in `args.out`, which is written anew after every prompt."""
    model = sencache.load(args.model, scheduler=args.sampler)
    guidance = model.spec.guidance_scale if args.guidance is None else args.guidance
    own = args.sampler is None and guidance == model.spec.guidance_scale
    profile = load_profile(args.profile) if args.profile else own_profile(model.spec)
    assert profile is not None
    rows = _stored(args.out, facts := _facts(model, guidance, profile))
    done = {(row["prompt"], row["lane"], row["budget"]) for row in rows}
    budgets = [int(nfe) for nfe in args.nfe.split(",")]
    asked = [(name, nfe) for nfe in budgets for name in _lanes(args.lanes, own, nfe)]
    for index, prompt in enumerate(testbed.prompts(args.prompts)):
        missing = [one for one in asked if (index, *one) not in done]
        if missing:
            request = _request(model, prompt, testbed.SEED + index, guidance)
            rows += [{"prompt": index, **row} for row in quality(model, request, missing, profile)]
            _write(args.out, facts, rows)
            print(args.out.name, index, flush=True)


def _facts(model: Model, guidance: float, profile: Profile) -> dict[str, Any]:
    sampler = model.info().scheduler
    table = {"guidance": profile.guidance_scale, "sha256": profile.sha256}
    return {"model": model.spec.key, "sampler": sampler, "guidance": guidance, "profile": table}


def _lanes(asked: str | None, own: bool, nfe: int) -> Sequence[str]:
    if asked:
        return asked.split(",")
    return (*MAIN, *MORE) if own and nfe >= LEAST_FOR_ALL else MAIN


def _request(model: Model, prompt: str, seed: int, guidance: float) -> Request:
    spec = model.spec
    size = {"height": spec.height, "width": spec.width, "frames": spec.frames}
    return Request(prompt=prompt, seed=seed, steps=spec.steps, guidance_scale=guidance, **size)


def quality(
    model: Model, request: Request, asked: Sequence[tuple[str, int]], profile: Profile
) -> Iterator[Row]:
    """One row per lane and budget, against one full run."""
    planned = [_planned(model, request, name, nfe, profile) for name, nfe in asked]
    encoded = model.encode(request.prompt, request.negative_prompt, request.guidance_scale)
    run = partial(_run, model, encoded, request)
    recorder = _recorder([one.policy for one in planned])
    full = run(Full(), request.steps, recorder).frames
    for (name, nfe), one in zip(asked, planned, strict=True):
        fitting = with_budget(one, nfe, recorder.recording())
        made = run(fitting.policy, fitting.steps)
        found = compare_frames(made.frames, full)
        values = {"psnr": found.psnr, "lpips": found.lpips, "ssim": found.ssim}
        rounded = {key: None if value is None else float(f"{value:.4g}") for key, value in values.items()}
        yield {"lane": name, "budget": nfe, **rounded, "nfe": made.trace.nfe}


def _planned(model: Model, request: Request, name: str, nfe: int, profile: Profile) -> Planned:
    (spec,) = (one for one in sencache.parse_lanes(name) if one.method == name.partition(":")[0])
    asked = request.model_copy(update={"nfe": nfe})
    job = make_job(model.spec, asked, [LaneSpec(name, spec.method, spec.given)], profile)
    return next(one for one in job.lanes if one.spec.name == name)


def _recorder(policies: Sequence[Policy]) -> Recorder:
    """What watches the full run for all that the policies look at."""
    signal = next((policy.signal for policy in policies if policy.signal), None)
    return Recorder(signal, {(sense, one.target) for one in policies for sense in one.senses})


def _run(
    model: Model, encoded: Any, request: Request, policy: Policy, steps: int, observer: Recorder | None = None
) -> Finished:
    asked = request.model_copy(update={"steps": steps})
    generate = partial(_generate, model, encoded, asked)
    *_, last = lane(model.pipe, policy, generate, model.device, observer)
    assert isinstance(last, Finished)
    return last


def _generate(model: Model, encoded: Any, request: Request, pipe: Any, callback: Any) -> Frames:
    return model.generate(pipe, encoded, request, callback)


def _stored(path: Path, facts: dict[str, Any]) -> list[Row]:
    """The rows in `path`, if it is there; they must have been made alike."""
    if not path.exists():
        return []
    stored = json.loads(path.read_text())
    if any(stored[key] != value for key, value in facts.items()):
        raise SystemExit(f"{path} was made otherwise; give another --out")
    return rows_of(stored)


def _write(path: Path, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """One row a line."""
    clips = len({row["prompt"] for row in rows})
    head = json.dumps({**facts, "prompts": clips, "versions": versions(), "columns": COLUMNS})
    lines = ",\n".join(json.dumps([row[name] for name in COLUMNS]) for row in rows)
    with atomic(path) as temporary:
        temporary.write_text(f'{head[:-1]}, "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
