"""Profiles: browse, overlay, take away; check a file of one's own; pull one from the Hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import gradio as gr

from sencache.app.pages.own_profiles import Fetched, Own, add_profile, own_profiles
from sencache.app.pages.parts import message, note, part
from sencache.errors import SencacheError
from sencache.hub.exchange import LISTED, pull_profile
from sencache.hub.npz import parse_npz
from sencache.policies.loading import load_all_bundled, load_bundled, parse_profile
from sencache.profiles.facts import facts, served
from sencache.profiles.library import bundled_profiles
from sencache.profiles.plots import overlay_figure
from sencache.profiles.profile import Profile

NO_OVERLAY = "no other"
LOOK_EVERY = 0.2
INTRO = """
<h1>Profiles</h1>
<p>What SenCache, MagCache and TeaCache know of a model before a run begins: constants measured once, for one
checkpoint and one schedule. EasyCache and fixed intervals need none; Control is better with one.</p>
"""
CALIBRATE = "python -m sencache calibrate --model MODEL --out profiles/NAME.json"
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def facts_of(name: str, own: Own) -> dict[str, Any]:
    """What the profile listed as `name` says of itself, as texts, with the file to take away."""
    profile, origin = _find(name, own)
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


def build_profiles_page(own: gr.State | None = None) -> None:
    """Put the page into the block that is open; `own` are the visitor's profiles, shared with other pages."""
    names, own = _names({}), own or own_profiles()
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
            _build_pull_box(own, chosen, overlay)
        with gr.Column(scale=3, min_width=320):
            # The download is made in the browser.
            table = part("profile_facts", facts_of(names[0], {}), "profile-facts")
            plot = gr.Plot(_plot(names[0], NO_OVERLAY, {}), show_label=False, elem_id="browsed-plot")
    gr.on([chosen.change, overlay.change], _show, [chosen, overlay, own], [table, plot], **PRIVATE)
    upload.upload(_check_upload, [upload, own], [own, chosen, overlay, checked], **PRIVATE)
    own.change(_list, own, [chosen, overlay], **PRIVATE)


def _build_pull_box(own: gr.State, chosen: gr.Dropdown, overlay: gr.Dropdown) -> None:
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
    repo.change(_files_of, repo, file, **PRIVATE)
    button.click(_pull, [repo, file, revision, own], [own, chosen, overlay, status], **PRIVATE)


def _files_of(repo: str) -> Any:
    files = list(LISTED[repo]) if repo in LISTED else []
    return gr.Dropdown(files, value=files[0] if files else None)


def _find(name: str, own: Own) -> tuple[Profile, str]:
    """The profile listed as `name`, and where it came from."""
    if name in own:
        return own[name]
    if name not in bundled_profiles():
        raise SencacheError(f"{name!r} is not in the list any more; choose another profile")
    return load_bundled(name), "comes with this software"


def _plot(name: str, other: str, own: Own) -> Any:
    names = [name] if other in (NO_OVERLAY, name) else [name, other]
    figure = overlay_figure([_find(each, own)[0] for each in names])
    # Long titles would run out of a phone.
    figure.for_each_annotation(
        lambda title: title.update(text="<br>".join(wrap(title.text, 46)), align="left", xshift=-44)
    )
    return figure


def _show(name: str, other: str, own: Own) -> tuple[Any, Any]:
    try:
        return facts_of(name, own), _plot(name, other, own)
    except SencacheError as error:
        raise gr.Error(str(error)) from None


def _check_upload(path: str, own: Own) -> tuple[Any, ...]:
    """Check an uploaded file, whose copy is removed whatever comes of it."""
    file = Path(path)
    try:
        content = file.read_bytes()
    finally:
        file.unlink(missing_ok=True)
    return _add(lambda: (read_upload(content, file.name), file.name, "checked here"), own)


def read_upload(content: bytes, name: str) -> Profile:
    """The profile in a visitor's file; raises SencacheError for one that is none or could serve no run."""
    suffix = Path(name).suffix.lower()
    if suffix not in (".json", ".npz"):
        raise SencacheError(f"{name} is neither .json nor .npz; choose a profile file")
    return parse_npz(content, name) if suffix == ".npz" else parse_profile(content, name).with_origin(name)


def _pull(repo: str, file: str, revision: str, own: Own) -> Iterator[tuple[Any, ...]]:
    """Pull one file; what happens is said while it happens."""
    received = [(0, 0)]
    fetch = partial(_fetch, repo, file, revision.strip(), lambda *counts: received.append(counts))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fetch)
        while not future.done():
            done, total = received[-1]
            so_far = f": {done:,} of {total:,} bytes" if total else ""
            yield gr.skip(), gr.skip(), gr.skip(), message(f"Asking the Hub for {file} of {repo}{so_far} …")
            wait([future], LOOK_EVERY)
    yield _add(future.result, own)


def _fetch(repo: str, file: str, revision: str, on_bytes: Callable[[int, int], object]) -> Fetched:
    profile = pull_profile(file, repo, revision or None, on_bytes=on_bytes)
    return profile, f"{file} of {repo}", "pulled from the Hub"


def _add(fetch: Callable[[], Fetched], own: Own) -> tuple[Any, ...]:
    """The visitor's list, its newest profile chosen; or what is wrong with that."""
    held, name, told = add_profile(fetch, own)
    if name is None:
        return gr.skip(), gr.skip(), gr.skip(), told
    return held, gr.Dropdown(_names(held), value=name), _list(held)[1], told


def _names(own: Own) -> list[str]:
    """The bundled ones, those that serve SenCache first, then the visitor's own."""
    bundled = load_all_bundled()
    return [*sorted(bundled, key=lambda name: (bundled[name].sensitivity is None, name)), *own]


def _list(own: Own) -> tuple[Any, Any]:
    return gr.Dropdown(_names(own)), gr.Dropdown([NO_OVERLAY, *_names(own)])
