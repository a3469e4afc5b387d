"""A visitor's own profiles, checked here or pulled from the Hub: for this visit alone, on all pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from sencache.app.pages.parts import message, note
from sencache.errors import SencacheError
from sencache.hub.download import Hub
from sencache.hub.exchange import LISTED
from sencache.hub.official import official_file
from sencache.hub.sources import parse_source, pull_source
from sencache.profiles.library import bundled_profiles
from sencache.profiles.profile import Profile

# By name, each with where it came from; kept nowhere else.
Own = dict[str, tuple[Profile, str]]
# A profile, how it is listed, and where it came from.
Fetched = tuple[Profile, str, str]
Note = dict[str, str | bool]

MOST_OWN = 12
ONE_HOUR = 3600
PULL_SECONDS = 60.0
# Visitors may name any repository, and their files must not fill the disk.
VISITORS = Hub(keeps=False)


def own_profiles() -> gr.State:
    return gr.State({}, time_to_live=ONE_HOUR)


def add_profile(fetch: Callable[[], Fetched], own: Own) -> tuple[Own, str | None, Note]:
    """The visitor's list with one more profile, its name, and what to say; or no name, and what is wrong."""
    try:
        if len(own) >= MOST_OWN:
            raise SencacheError(f"{MOST_OWN} profiles are in your list already; reload the page to empty it")
        profile, label, origin = fetch()
    except SencacheError as error:
        return own, None, message(str(error), bad=True)
    taken = {*bundled_profiles(), *own}
    numbered = (label, *(f"{label} ({count})" for count in range(2, MOST_OWN + 3)))
    name = next(name for name in numbered if name not in taken)
    at = f", at commit {profile.revision}" if profile.revision else ""
    told = message(f"{label}: a valid profile of {profile.model.id}{at}.")
    return {**own, name: (profile, origin)}, name, told


def pull_box() -> tuple[gr.Textbox, gr.Button, gr.HTML]:
    """Where a visitor names a source on the Hub, the button, and what came of it."""
    with gr.Row(equal_height=True):
        source = gr.Textbox(
            next(iter(LISTED)),
            label="Pull a profile from the Hub",
            info="owner/name, and :file where there are several. The newest commit is taken and shown.",
            max_length=300,
            elem_id="pull-source",
            scale=3,
        )
        button = gr.Button("Pull", elem_id="pull-source-button", scale=1, min_width=80)
    return source, button, note("pull-source-note")


def pull(text: str, architecture: str, own: Own) -> Iterator[tuple[Any, str | None, Note]]:
    """As `add_profile`, with what `text` names on the Hub, `repo[@commit][:file]`; first that it is asked."""
    yield gr.skip(), None, message(f"Asking the Hub for {text.strip()[:100]} …")
    yield add_profile(lambda: _fetch(text, architecture), own)


def _fetch(text: str, architecture: str) -> Fetched:
    source = parse_source(text)
    if source.file is None and source.repo in LISTED:
        source = parse_source(f"{text.strip()}:{official_file(architecture)}")
    found = pull_source(source, VISITORS, PULL_SECONDS)
    profile = next((profile for profile in found if profile.model.architecture == architecture), found[0])
    profile.require(architecture)
    return profile, f"{profile.origin} of {profile.repo}", "pulled from the Hub"
