"""Profiles: browse, overlay, take away; check a file of one's own; pull one from the Hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import gradio as gr

from sencache.app.pages.note import note, said
from sencache.app.pages.own_profiles import Fetched, Own, added, own_profiles
from sencache.app.pages.profile_facts import ProfileFacts, facts_of
from sencache.errors import SencacheError
from sencache.hub.exchange import LISTED, pull_profile
from sencache.hub.npz import parse_npz
from sencache.policies.loading import load_all_bundled, load_bundled, parse_profile
from sencache.profiles.library import bundled_profiles
from sencache.profiles.plots import overlay_figure
from sencache.profiles.profile import Profile

NO_OVERLAY = "no other"
LOOK_EVERY = 0.2
INTRO = """
<h1>Profiles</h1>
<p>What SenCache, MagCache and TeaCache know of a model before a run begins: constants measured once, for one
checkpoint and one schedule. EasyCache, Control and fixed intervals need none.</p>
"""
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build_profiles_page(own: gr.State | None = None) -> None:
    """Put the page into the block that is open; `own` are the visitor's profiles, shared with other pages."""
    names, own = _bundled(), own or own_profiles()
    gr.HTML(INTRO, padding=False, elem_classes="intro")
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            chosen = gr.Dropdown(names, value=names[0], label="Profile", elem_id="profile-choice")
            overlay = gr.Dropdown(
                [NO_OVERLAY, *names], value=NO_OVERLAY, label="Overlay in the plot", elem_id="profile-overlay"
            )
            upload = gr.UploadButton(
                "Check a file (.json, .npz)", file_types=[".json", ".npz"], elem_id="profile-upload"
            )
            checked = note("profile-note", "Checked here, never run; forgotten when you leave.")
            pull = _pull_box()
        with gr.Column(scale=3, min_width=320):
            facts = ProfileFacts(_facts(names[0], {}), elem_id="profile-facts")
            plot = gr.Plot(_plot(names[0], NO_OVERLAY, {}), show_label=False, elem_id="browsed-plot")
    gr.on([chosen.change, overlay.change], _shown, [chosen, overlay, own], [facts, plot], **PRIVATE)
    upload.upload(_uploaded, [upload, own], [own, chosen, overlay, checked], **PRIVATE)
    own.change(_listed, own, [chosen, overlay], **PRIVATE)
    repo, file, revision, button, status = pull
    repo.change(_files_of, repo, file, **PRIVATE)
    button.click(_pulled, [repo, file, revision, own], [own, chosen, overlay, status], **PRIVATE)


def _pull_box() -> tuple[Any, ...]:
    first = next(iter(LISTED))
    with gr.Accordion("Pull from the Hub", open=False):
        repo = gr.Dropdown(list(LISTED), value=first, label="Repository", elem_id="pull-repo")
        files = list(LISTED[first])
        file = gr.Dropdown(files, value=files[0], label="File", elem_id="pull-file")
        revision = gr.Textbox(
            label="Commit",
            info="Full hash, 40 digits; left empty, the newest commit is taken and shown.",
            max_length=64,
            elem_id="pull-revision",
        )
        button = gr.Button("Pull", elem_id="pull-button")
        status = note("pull-note")
    return repo, file, revision, button, status


def _files_of(repo: str) -> Any:
    files = list(LISTED[repo]) if repo in LISTED else []
    return gr.Dropdown(files, value=files[0] if files else None)


def _bundled() -> list[str]:
    """By name, those that serve SenCache first."""
    found = load_all_bundled()
    return sorted(found, key=lambda name: (found[name].sensitivity is None, name))


def _profile(name: str, own: Own) -> tuple[Profile, str]:
    """The profile listed as `name`, and where it came from."""
    if name in own:
        return own[name]
    if name not in bundled_profiles():
        raise SencacheError(f"{name!r} is not in the list any more; choose another profile")
    return load_bundled(name), "comes with this software"


def _facts(name: str, own: Own) -> dict[str, Any]:
    profile, origin = _profile(name, own)
    return facts_of(profile, name, origin)


def _plot(name: str, other: str, own: Own) -> Any:
    names = [name] if other in (NO_OVERLAY, name) else [name, other]
    figure = overlay_figure([_profile(each, own)[0] for each in names])
    # Long titles would run out of a phone.
    figure.for_each_annotation(
        lambda title: title.update(text="<br>".join(wrap(title.text, 46)), align="left", xshift=-44)
    )
    return figure


def _shown(name: str, other: str, own: Own) -> tuple[Any, Any]:
    try:
        return _facts(name, own), _plot(name, other, own)
    except SencacheError as error:
        raise gr.Error(str(error)) from None


def _uploaded(path: str, own: Own) -> tuple[Any, ...]:
    """Check an uploaded file, whose copy is removed whatever comes of it."""
    file = Path(path)
    try:
        content = file.read_bytes()
    finally:
        file.unlink(missing_ok=True)
    return _added(lambda: (read_upload(content, file.name), file.name, "checked here"), own)


def read_upload(content: bytes, name: str) -> Profile:
    """The profile in a visitor's file; raises SencacheError for one that is none or could serve no run."""
    suffix = Path(name).suffix.lower()
    if suffix not in (".json", ".npz"):
        raise SencacheError(f"{name} is neither .json nor .npz; choose a profile file")
    return parse_npz(content, name) if suffix == ".npz" else parse_profile(content, name).located(name)


def _pulled(repo: str, file: str, revision: str, own: Own) -> Iterator[tuple[Any, ...]]:
    """Pull one file; what happens is said while it happens."""
    received = [(0, 0)]
    asked = partial(_fetched, repo, file, revision.strip(), lambda *counts: received.append(counts))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(asked)
        while not future.done():
            done, total = received[-1]
            so_far = f": {done:,} of {total:,} bytes" if total else ""
            yield gr.skip(), gr.skip(), gr.skip(), said(f"Asking the Hub for {file} of {repo}{so_far} …")
            wait([future], LOOK_EVERY)
    yield _added(future.result, own)


def _fetched(repo: str, file: str, revision: str, on_bytes: Callable[[int, int], object]) -> Fetched:
    pulled = pull_profile(file, repo, revision or None, on_bytes=on_bytes)
    return pulled, f"{file} of {repo}", "pulled from the Hub"


def _added(fetch: Callable[[], Fetched], own: Own) -> tuple[Any, ...]:
    """The visitor's list, its newest profile chosen; or what is wrong with that."""
    held, name, told = added(fetch, own)
    if name is None:
        return gr.skip(), gr.skip(), gr.skip(), told
    return held, gr.Dropdown(_names(held), value=name), _overlays(held), told


def _names(own: Own) -> list[str]:
    return [*_bundled(), *own]


def _overlays(own: Own) -> Any:
    return gr.Dropdown([NO_OVERLAY, *_names(own)])


def _listed(own: Own) -> tuple[Any, Any]:
    """Both lists with the visitor's own, wherever they were added."""
    return gr.Dropdown(_names(own)), _overlays(own)
