"""What a profile says of itself, as a table of texts, with the file to take away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from sencache.app.pages.theme import script
from sencache.app.palette import lane_label
from sencache.hub.card import served
from sencache.profiles.profile import Profile

CALIBRATE = "python -m sencache calibrate --model MODEL --out profiles/NAME.json"


class ProfileFacts(gr.HTML):
    """Shows what `facts_of` returns; all of it as text. The download is made in the browser."""

    def __init__(self, value: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(
            value=value or {},
            html_template='<div class="profile-facts"></div>',
            js_on_load=script("profile_facts"),
            padding=False,
            **options,
        )

    def api_info(self) -> dict[str, Any]:
        """What clients of the API see."""
        return {"type": "object"}


def facts_of(profile: Profile, name: str, origin: str) -> dict[str, Any]:
    """`name` as listed; `origin`: where the page has it from, in a few words."""
    return {
        "name": name,
        "serves": [lane_label(method) for method in served(profile)],
        "rows": [[label, text] for label, text in _rows(profile, origin) if text],
        "warnings": list(_warnings(profile)),
        "file": f"{(profile.origin or 'profile').rsplit('.', 1)[0]}.json",
        "json": profile.to_json(),
    }


def _rows(profile: Profile, origin: str) -> Iterator[tuple[str, str]]:
    model, schedule, shape, where = profile.model, profile.schedule, profile.shape, profile.provenance
    yield "Model", model.id
    yield "Model revision", model.revision or ""
    yield "Architecture", model.architecture
    yield "Schedule", f"{schedule.scheduler}, {schedule.steps} steps{_shift(profile)}"
    if shape:
        yield (
            "Shape",
            f"{shape.width} × {shape.height}, {shape.frames} frames, {shape.elements:,} latent elements",
        )
    yield "Guidance", "" if profile.guidance_scale is None else f"{profile.guidance_scale:g}"
    yield "Precision", profile.dtype or ""
    yield "Presets", ", ".join(profile.presets)
    if profile.sensitivity:
        yield (
            "Sensitivities of",
            f"the {profile.sensitivity.target}, over {profile.sensitivity.samples} samples",
        )
    if profile.calibration:
        yield "Calibrated", f"{profile.calibration.date}, {len(profile.calibration.prompts)} prompts"
    yield "Provenance", f"{where.kind}: {where.source}"
    yield "Licence", where.licence
    yield "From", origin
    yield "Repository", profile.repo or ""
    yield "Commit", profile.revision or ""
    yield "sha256", profile.sha256


def _shift(profile: Profile) -> str:
    shift = profile.schedule.config.get("flow_shift", profile.schedule.config.get("mu"))
    return "" if shift is None else f", shift {shift}"


def _warnings(profile: Profile) -> Iterator[str]:
    if profile.sensitivity is None:
        yield (
            "This profile holds no sensitivities, so SenCache cannot use it. Pull the authors' file below, "
            f"or calibrate the model: {CALIBRATE}"
        )
    elif profile.provenance.kind == "imported":
        yield "Imported numbers: no spread over samples is known unless the plot shows a band."
    if profile.provenance.licence == "unknown":
        yield "The licence is unknown: use it yourself, but do not publish it again."
