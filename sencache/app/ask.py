"""What a visitor or client asks for, as plain data, and what that comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from sencache.app.shelf import shelf
from sencache.app.space import offered_model, offered_models
from sencache.comparison.plan import FEWER_STEPS, REFERENCE, LaneSpec, parse_lanes, plan_lanes
from sencache.errors import SencacheError
from sencache.models import words
from sencache.models.model import ModelSpec, check_request
from sencache.policies.loading import load_bundled, parse_profile
from sencache.profiles.profile import Profile
from sencache.schema import MAX_STEPS, Request, Strict, first_problem

MAX_LANES = 16

Name = Annotated[str, Field(max_length=200)]
Value = bool | int | float | Annotated[str, Field(max_length=2000)]


class ProfileOrigin(Strict):
    """Where a profile was read from: a file, of a Hub repository at a commit if it was pulled."""

    file: Name
    repo: Name | None = None
    revision: Name | None = None


class Ask(Strict):
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


@dataclass(frozen=True)
class Understood:
    """An `Ask` with every name looked up and every number checked."""

    spec: ModelSpec
    request: Request
    lanes: tuple[LaneSpec, ...]
    profiles: tuple[Profile, ...]

    @property
    def hint(self) -> str | None:
        """Which words of the prompt a bundled model has never seen; it runs all the same."""
        return words.hint(self.request.prompt) if self.spec.bundled else None


def make_ask(**asked: Any) -> Ask:
    """An `Ask` of loosely typed values; raises SencacheError naming the value that cannot be used."""
    try:
        return Ask(**asked)
    except ValidationError as error:
        raise _refusal(error) from None


def understand(ask: Ask) -> Understood:
    """What `ask` comes to. Costs nothing: no model is loaded.

    Raises SencacheError, with the offending value and the remedy, for whatever could not run.
    """
    spec = offered_model(ask.model)
    request = _request(spec, ask)
    check_request(spec, request)
    # The baselines come first; the plan would add fewer-steps last.
    methods = dict.fromkeys((REFERENCE, FEWER_STEPS, *ask.methods))
    lanes = parse_lanes(",".join(methods), _overrides(ask.settings))
    if len(lanes) > MAX_LANES:
        raise SencacheError(f"{len(lanes)} lanes are too many for one comparison; choose up to {MAX_LANES}")
    profiles = (*_chosen(ask), *shelf(spec).profiles)
    plan_lanes(lanes, request, profiles, spec.architecture)
    return Understood(spec, request, tuple(lanes), profiles)


def _request(spec: ModelSpec, ask: Ask) -> Request:
    sizes = ("steps", "height", "width", "frames", "guidance_scale")
    own = {name: getattr(spec, name) for name in sizes}
    given = {name: value for name in sizes if (value := getattr(ask, name)) is not None}
    try:
        return Request(
            prompt=ask.prompt,
            negative_prompt=ask.negative_prompt,
            seed=ask.seed,
            nfe=ask.nfe,
            preset=ask.preset if ask.nfe is None else None,
            guidance_scale_2=spec.guidance_scale_2,
            **{**own, **given},
        )
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> SencacheError:
    where, value, problem = first_problem(error)
    name = where.replace("_", " ")
    return SencacheError(f"{name} is {value!r} ({problem.lower()}); correct it")


def _overrides(settings: dict[str, dict[str, Value]]) -> list[str]:
    return [f"{method}.{key}={value}" for method, given in settings.items() for key, value in given.items()]


def _chosen(ask: Ask) -> tuple[Profile, ...]:
    if ask.profile_json is not None:
        given = parse_profile(ask.profile_json, "the uploaded profile")
        at = ask.profile_origin
        return (given.located(at.file, at.repo, at.revision) if at else given,)
    return (load_bundled(ask.profile),) if ask.profile else ()
