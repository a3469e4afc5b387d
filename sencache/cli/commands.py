"""`python -m sencache …`: the commands, their arguments, and what they print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import typer
from rich.console import Console
from rich.markup import escape

from sencache.cli import options
from sencache.cli.console import print_json, print_lines, progress
from sencache.cli.gallery import gallery_app
from sencache.cli.profiles import profiles_app
from sencache.errors import SencacheError
from sencache.files import atomic, stage

app = typer.Typer(
    help="Step caching for video diffusion transformers: compare methods, calibrate, verify reports.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(profiles_app, name="profiles")
app.add_typer(gallery_app, name="gallery")

DEFAULT_METHODS = "none,fewer-steps,fixed,sencache,sencache:repair=replay,magcache,teacache,easycache,control"


def main() -> None:
    """Run the command line; bad input prints one line, as JSON with `--json`, and exits with code 2."""
    try:
        app()
    except SencacheError as error:
        if "--json" in sys.argv:
            typer.echo(json.dumps({"error": str(error), "code": error.code}), err=True)
        else:
            console = Console(stderr=True, soft_wrap=True)
            console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(2)


@app.command()
def models(as_json: options.Json = False) -> None:
    """List the models that can be compared and calibrated, what they need, and which are on this machine.

    Any other checkpoint of the same pipelines works too: `--model owner/name`, or a folder.
    """
    from sencache.cli.tables import models_table
    from sencache.models.catalogue import MODELS
    from sencache.models.listing import describe_model

    listed = [describe_model(spec) for spec in MODELS.values()]
    if as_json:
        print_json(listed)
    else:
        Console().print(models_table(listed))


@app.command()
def compare(
    prompt: options.Prompt,
    out: options.OutFolder,
    model: options.ModelKey = "tiny-wan",
    methods: options.Methods = DEFAULT_METHODS,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    nfe: options.Nfe = None,
    preset: options.Preset = None,
    setting: options.Settings = None,
    negative_prompt: options.NegativePrompt = "",
    guidance: options.Guidance = None,
    height: options.Pixels = None,
    width: options.Pixels = None,
    frames: options.Frames = None,
    profile: options.ProfileFiles = None,
    scheduler: options.Scheduler = None,
    shift: options.Shift = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    image: options.Image = None,
    guidance_2: options.Guidance2 = None,
    as_json: options.Json = False,
) -> None:
    """Make one video under every method from the same noise, and measure what each costs and changes.

    Writes DIR/report.json (every decision of every step) and DIR/LANE.mp4. A full run and the plain sampler
    with fewer steps are always part of it.
    """
    from sencache.cli.comparing import compare_into, show
    from sencache.comparison.devices import named_devices
    from sencache.comparison.job import make_job
    from sencache.comparison.plan import parse_lanes
    from sencache.models.checkpoint import find_spec
    from sencache.models.model import own_profile
    from sencache.policies.loading import load_profile

    spec = find_spec(model, from_image=image is not None)
    own = own_profile(spec)
    profiles = [*map(load_profile, profile or ()), *([own] if own else [])]
    has_slow = any("slow" in one.presets for one in profiles)
    preset = preset or ("slow" if nfe is None and has_slow else None)
    asked: dict[str, Any] = {"height": height, "width": width, "frames": frames, "image": image}
    asked |= {"guidance_scale": guidance, "guidance_scale_2": guidance_2, "nfe": nfe, "preset": preset}
    request = _request(spec, prompt=prompt, negative_prompt=negative_prompt, steps=steps, seed=seed, **asked)
    job = make_job(spec, request, parse_lanes(methods, setting or ()), profiles)
    with stage(out) as folder:
        loaded = [_load(spec, one, scheduler, shift, dtype, request) for one in named_devices(device)]
        report, cut = compare_into(folder, job, loaded)
    show(report, cut, out, as_json)


def _load(spec: Any, *how: Any) -> Any:
    """The model, after saying where its parts are, if there is a choice."""
    from sencache.models.model import load

    loaded = load(spec, *how)
    if loaded.placement:
        Console(stderr=True).print(f"{loaded.spec.key}, {loaded.device}: {loaded.placement}")
    return loaded


def _request(spec: Any, **asked: Any) -> Any:
    from pydantic import ValidationError

    from sencache.models.stills import read_still
    from sencache.schema import Request, first_problem

    names = ("steps", "height", "width", "frames", "guidance_scale", "guidance_scale_2")
    given = {name: value for name, value in asked.items() if value is not None}
    if "image" in given:
        given["image"] = read_still(given["image"])
    try:
        return Request(**{**{name: getattr(spec, name) for name in names}, **given})
    except ValidationError as error:
        where, value, problem = first_problem(error)
        option = {"guidance_scale": "guidance", "guidance_scale_2": "guidance-2"}.get(where, where)
        raise SencacheError(f"{option} is {value}: {problem.lower()}; correct --{option}") from None


@app.command()
def calibrate(
    model: options.ModelKey = "tiny-wan",
    out: options.OutProfile = Path("profile.json"),
    samples: options.Samples = 8,
    prompts: options.Prompts = None,
    method: options.CalibrationMethod = "trajectory",
    clips: options.Clips = None,
    target: options.MeasuredTarget = "output",
    steps: options.Steps = None,
    seed: options.FirstSeed = 1000,
    scheduler: options.Scheduler = None,
    shift: options.Shift = None,
    guidance: options.Guidance = None,
    height: options.Pixels = None,
    width: options.Pixels = None,
    frames: options.Frames = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    image: options.Image = None,
    guidance_2: options.Guidance2 = None,
) -> None:
    """Measure a model on a few videos and write one profile for SenCache, MagCache and TeaCache.

    Costs one more evaluation per step than plain generations. Every video's result is kept in OUT.samples, so
    that the same command goes on where it was stopped, and more samples can be added later.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from sencache.calibration.profiling import CalibrationPlan, read_prompts
    from sencache.calibration.profiling import calibrate as measure
    from sencache.cli.tables import calibration_summary
    from sencache.models.checkpoint import find_spec
    from sencache.models.checks import check_request
    from sencache.profiles.profile import write_profile

    spec = find_spec(model, from_image=image is not None)
    texts = read_prompts(prompts) if prompts else spec.calibration_prompts
    asked: dict[str, Any] = {"height": height, "width": width, "frames": frames, "image": image}
    asked |= {"guidance_scale": guidance, "guidance_scale_2": guidance_2}
    request = _request(spec, prompt=texts[0], steps=steps, seed=seed, **asked)
    for text in texts:
        check_request(spec, request.model_copy(update={"prompt": text}))
    videos = _find_clips(method, clips)
    if target not in ("output", "residual"):
        raise SencacheError(f"cannot calibrate on {target!r}; choose output or residual")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with atomic(out) as temporary:
        loaded = _load(spec, device, scheduler, shift, dtype, request)
        plan = CalibrationPlan(loaded, request, texts, samples, cast(Any, target), videos)
        with progress(*columns) as bar:
            steps = bar.add_task(f"calibrating on {samples} videos", total=plan.steps)
            profile = measure(plan, Path(f"{out}.samples"), lambda: bar.advance(steps))
        write_profile(profile, temporary)
    print_lines(calibration_summary(profile))
    typer.echo(f"wrote {out}, sha256 {profile.sha256}; single results are in {out}.samples")


def _find_clips(method: str, folder: Path | None) -> tuple[Path, ...]:
    from sencache.calibration.clips import find_clips

    if method not in ("trajectory", "paper"):
        raise SencacheError(f"unknown method {method!r}; choose trajectory or paper")
    if (method == "paper") != (folder is not None):
        raise SencacheError(
            f"method {method} and clips {folder} do not go together; --clips DIR is for paper"
        )
    return find_clips(folder) if folder else ()


@app.command()
def verify(
    report: options.ReportFile, profile: options.UsedProfiles = None, as_json: options.Json = False
) -> None:
    """Recompute every decision of a report from its records and the profiles; exit code 1 when something does
    not hold.

    A profile is found by its hash: bundled, kept from the Hub, `profile*.json` beside the report, or given.
    """
    from sencache.comparison.report import load_report
    from sencache.comparison.verify import check_given, profiles_at_hand, verify
    from sencache.policies.loading import load_profile

    content, given = load_report(report), [load_profile(path) for path in profile or ()]
    check_given(content, given)
    problems = verify(content, profiles_at_hand(given, report.parent))
    records = sum(len(lane.trace) for lane in content.lanes)
    if as_json:
        print_json(
            {"ok": not problems, "lanes": len(content.lanes), "records": records, "problems": problems}
        )
    else:
        print_lines(problems or [f"{len(content.lanes)} lanes, {records} decisions: all hold"])
    if problems:
        raise typer.Exit(1)


@app.command()
def schema(name: options.SchemaName) -> None:
    """Print the JSON schema of a report or a profile, as published in docs/schema."""
    from pydantic import BaseModel
    from pydantic.json_schema import GenerateJsonSchema

    from sencache.comparison.report import Report
    from sencache.profiles.profile import Profile

    kinds: dict[str, type[BaseModel]] = {"report": Report, "profile": Profile}
    if name not in kinds:
        raise SencacheError(f"no schema {name!r}; choose report or profile")
    print_json({"$schema": GenerateJsonSchema.schema_dialect, **kinds[name].model_json_schema(by_alias=True)})
