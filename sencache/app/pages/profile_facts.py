"""What a profile says of itself, as a table of texts, with the file to take away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from sencache.app.pages.theme import script
from sencache.profiles.facts import facts, served
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
    taken = (("From", origin), ("Repository", profile.repo), ("Commit", profile.revision))
    return {
        "name": name,
        "serves": served(profile),
        "rows": [*facts(profile), *(pair for pair in taken if pair[1])],
        "warnings": list(_warnings(profile)),
        "file": f"{(profile.origin or 'profile').rsplit('.', 1)[0]}.json",
        "json": profile.to_json(),
    }


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
