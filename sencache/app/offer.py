"""What can be asked for, as plain data: models, methods with their settings, profiles."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from sencache.app import space
from sencache.app.palette import lane_label
from sencache.app.shelf import shelf
from sencache.comparison.plan import FEWER_STEPS
from sencache.models.model import ModelSpec
from sencache.policies import METHODS, Policy, uses_profile
from sencache.policies.loading import load_all_bundled

MODEL_FACTS = (
    *("key", "summary", "licence", "architecture", "height", "width", "frames", "fps", "steps", "profile"),
    *("size_multiple", "temporal_factor", "min_side", "max_side", "max_frames", "guidance_scale"),
)
SUMMARIES = {
    FEWER_STEPS: "no cache: the plain sampler with as many steps as the others evaluate",
    "sencache:repair=replay": "the same rule; reused steps are gone over again once the next one is computed",
    "sencache:forecast=fitted:repair=replay": "the same rule at its best: forecasts by a table, and replayed",
}
BOUNDS = ("minimum", "maximum", "exclusiveMinimum")


def describe() -> dict[str, Any]:
    """`models`, `methods` (what a lane can be, in the order shown), `profiles`: names, limits, defaults."""
    profiles = load_all_bundled().items()
    return {
        "models": [_model(spec) for spec in space.offered_models().values()],
        "methods": [_method(lane) for lane in (*space.BASELINES, *space.caching_lanes())],
        "profiles": [
            {
                "name": name,
                "model": profile.model.id,
                "architecture": profile.model.architecture,
                "presets": sorted(profile.presets),
            }
            for name, profile in profiles
        ],
    }


def _model(spec: ModelSpec) -> dict[str, Any]:
    held, chosen = shelf(spec), space.first_lanes(spec)
    return {
        **{name: getattr(spec, name) for name in MODEL_FACTS},
        "presets": sorted({name for profile in held.profiles for name in profile.presets}, reverse=True),
        "pulled": list(held.told),
        "preselected": chosen,
        "unserved": space.unserved_lanes(spec),
        "idle": space.idle_lanes(spec),
        # For the time they take, though they could run.
        "spared": [lane for lane in space.preselected_lanes(spec) if lane not in chosen],
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
        "baseline": method in space.BASELINES,
        "uses_profile": caches and uses_profile(method),
        "knob": cls.knob if cls else None,
        "settings": _settings(cls) if cls and caches else [],
    }


def _settings(cls: type[Policy]) -> list[dict[str, Any]]:
    """Of each: `kind`, which is number, integer, boolean, choice or list, and `default`, None where the
    profile or the rule says.
    """
    found = []
    for name, schema in TypeAdapter(cls).json_schema()["properties"].items():
        if name == "profile":
            continue
        option = next(one for one in schema.get("anyOf", [schema]) if one.get("type") != "null")
        kind = {"string": "choice", "array": "list"}.get(option["type"], option["type"])
        bounds = {key: option[key] for key in BOUNDS if key in option}
        choices = option.get("enum", [])
        found.append(
            {"name": name, "kind": kind, "default": schema.get("default"), "choices": choices, **bounds}
        )
    return found
