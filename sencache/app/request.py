"""What a visitor or client asks for, as plain data, and the job that it comes to."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from sencache.app.shelf import shelf
from sencache.app.space import offered_model, offered_models
from sencache.comparison.job import Job, make_job
from sencache.comparison.plan import FEWER_STEPS, REFERENCE, make_lanes
from sencache.errors import SencacheError
from sencache.models.spec import ModelSpec
from sencache.policies.loading import load_bundled, parse_profile
from sencache.profiles.profile import Profile
from sencache.schema import MAX_STEPS, Request, Strict, first_problem

MAX_LANES = 16
# What is the model's own where nothing is asked.
NUMBERS = ("steps", "height", "width", "frames", "guidance_scale")

Name = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=2000)]
Value = bool | int | float | Text | Annotated[tuple[int | Text, ...], Field(max_length=MAX_STEPS)]


class ProfileOrigin(Strict):
    """Where a profile was read from: a file, of a Hub repository at a commit if it was pulled."""

    file: Name
    repo: Name | None = None
    revision: Name | None = None


class ComparisonRequest(Strict):
    """One comparison as asked for, of the first model offered unless one is named; every number that is None
    is the model's own.

    `methods` are lanes as on the command line (`method[:key=value…]`), `settings` the knobs of a method in
    all its lanes. `nfe` is the budget that sets all knobs, `preset` one of the profile's; with neither the
    methods' own defaults hold. `profile` names a bundled profile, `profile_json` is the content of one that
    was read from `profile_origin`; those of the model serve the methods that it does not.
    """

    model: Name = Field(default_factory=lambda: next(iter(offered_models())))
    prompt: str
    negative_prompt: str = ""
    methods: Annotated[tuple[Name, ...], Field(max_length=MAX_LANES)] = ()
    settings: dict[Name, dict[Name, Value]] = Field(default_factory=dict)
    nfe: int | None = None
    preset: Name | None = None
    seed: int = 0
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    profile: Name | None = None
    profile_json: str | None = None
    profile_origin: ProfileOrigin | None = None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


def make_request(**given: Any) -> ComparisonRequest:
    """A request of loosely typed values; raises SencacheError naming the value that cannot be used."""
    try:
        return ComparisonRequest(**given)
    except ValidationError as error:
        raise _refusal(error) from None


def plan_request(asked: ComparisonRequest) -> Job:
    """What `asked` comes to; no model is loaded. Raises SencacheError, with the offending value and the
    remedy, for whatever could not run.
    """
    spec = offered_model(asked.model)
    # The baselines come first; the plan would add fewer-steps last.
    lanes = make_lanes(tuple(dict.fromkeys((REFERENCE, FEWER_STEPS, *asked.methods))), asked.settings)
    if len(lanes) > MAX_LANES:
        raise SencacheError(f"{len(lanes)} lanes are too many for one comparison; choose up to {MAX_LANES}")
    return make_job(spec, _request(spec, asked), lanes, (*_own_profile(asked), *shelf(spec).profiles))


def _request(spec: ModelSpec, asked: ComparisonRequest) -> Request:
    numbers = {name: getattr(asked, name) for name in NUMBERS}
    own = {name: getattr(spec, name) for name in NUMBERS}
    try:
        return Request(
            prompt=asked.prompt,
            negative_prompt=asked.negative_prompt,
            seed=asked.seed,
            nfe=asked.nfe,
            preset=asked.preset if asked.nfe is None else None,
            guidance_scale_2=spec.guidance_scale_2,
            **{name: own[name] if value is None else value for name, value in numbers.items()},
        )
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> SencacheError:
    where, value, problem = first_problem(error)
    return SencacheError(f"{where.replace('_', ' ')} is {value!r} ({problem.lower()}); correct it")


def _own_profile(asked: ComparisonRequest) -> tuple[Profile, ...]:
    if asked.profile_json is not None:
        given, at = parse_profile(asked.profile_json, "the uploaded profile"), asked.profile_origin
        return (given.with_origin(at.file, at.repo, at.revision) if at else given,)
    return (load_bundled(asked.profile),) if asked.profile else ()
