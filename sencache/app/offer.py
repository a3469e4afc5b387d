"""What can be asked for, as plain data: models, methods with their settings, profiles."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from sencache.app.opening import BASELINES, caching_lanes, idle, unserved
from sencache.app.palette import lane_label
from sencache.app.shelf import shelf
from sencache.app.space import first_lanes, offered_models, spared
from sencache.comparison.plan import FEWER_STEPS
from sencache.models.model import ModelSpec
from sencache.policies import METHODS, Policy, uses_profile
from sencache.policies.loading import load_bundled
from sencache.profiles.library import bundled_profiles

SUMMARIES = {
    FEWER_STEPS: "no cache: the plain sampler with as many steps as the others evaluate",
    "sencache:forecast=linear": "the same rule, reusing an extrapolation instead of the last result",
}
NUMBERS = ("minimum", "maximum", "exclusiveMinimum")


def describe() -> dict[str, Any]:
    """`models`, `methods` (what a lane can be, in the order shown), `profiles`: names, limits, defaults."""
    return {
        "models": [_model(spec) for spec in offered_models().values()],
        "methods": [_method(lane) for lane in (*BASELINES, *caching_lanes())],
        "profiles": [_profile(name) for name in bundled_profiles()],
    }


def _model(spec: ModelSpec) -> dict[str, Any]:
    held = shelf(spec)
    names = ("key", "summary", "licence", "architecture", "height", "width", "frames", "fps", "steps")
    limits = ("size_multiple", "temporal_factor", "min_side", "max_side", "max_frames", "guidance_scale")
    return {
        **{name: getattr(spec, name) for name in (*names, *limits)},
        "profile": spec.profile,
        "presets": sorted({name for profile in held.profiles for name in profile.presets}, reverse=True),
        "pulled": list(held.told),
        "preselected": first_lanes(spec),
        "unserved": unserved(spec),
        "idle": idle(spec),
        "spared": spared(spec),
        "examples": list(spec.calibration_prompts),
    }


def _method(lane: str) -> dict[str, Any]:
    method = lane.split(":")[0]
    cls = METHODS.get(method)
    caches = cls is not None and cls.caches
    return {
        "lane": lane,
        "method": method,
        "label": lane_label(lane),
        "summary": SUMMARIES.get(lane) or (cls.summary if cls else ""),
        "baseline": method in BASELINES,
        "uses_profile": caches and uses_profile(method),
        "knob": cls.knob if cls else None,
        "settings": _settings(cls) if cls and caches else [],
    }


def _settings(cls: type[Policy]) -> list[dict[str, Any]]:
    properties = TypeAdapter(cls).json_schema()["properties"]
    return [_setting(name, given) for name, given in properties.items() if name != "profile"]


def _setting(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """`kind` is number, integer, boolean, choice or list; `default` None means that the profile or
    rule says.
    """
    kinds = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    kind = {"string": "choice", "array": "list"}.get(kinds[0]["type"], kinds[0]["type"])
    bounds = {key: kinds[0][key] for key in NUMBERS if key in kinds[0]}
    choices = kinds[0].get("enum", [])
    return {"name": name, "kind": kind, "default": schema.get("default"), "choices": choices, **bounds}


def _profile(name: str) -> dict[str, Any]:
    profile = load_bundled(name)
    return {
        "name": name,
        "model": profile.model.id,
        "architecture": profile.model.architecture,
        "presets": sorted(profile.presets),
    }
