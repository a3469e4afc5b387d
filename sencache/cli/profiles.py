"""`python -m sencache profiles …`: profiles listed, shown, checked, imported, pulled and pushed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from sencache.cli import options
from sencache.cli.console import print_json, progress
from sencache.errors import SencacheError
from sencache.files import atomic

profiles_app = typer.Typer(
    help="List, show, check, import, pull and push calibrated profiles.", no_args_is_help=True
)


@profiles_app.command("list")
def profiles_list(as_json: options.Json = False) -> None:
    """List the bundled profiles."""
    from sencache.cli.tables import profiles_table
    from sencache.policies.loading import load_all_bundled

    loaded = load_all_bundled()
    if as_json:
        print_json([{"name": name, "model": p.model.id, "sha256": p.sha256} for name, p in loaded.items()])
    else:
        Console().print(profiles_table(loaded))


@profiles_app.command("show")
def profiles_show(name: options.ProfileName, html: options.HtmlFile = None) -> None:
    """Print one profile as JSON, or draw it into an HTML file; its sha256, and how far fitted forecasts are
    expected to miss, go to standard error.
    """
    from sencache.profiles.facts import facts

    profile = _find_profile(name)
    for label, text in facts(profile):
        if label in ("sha256", "Fitted forecasts"):
            typer.echo(f"{label} {text}", err=True)
    if html is None:
        typer.echo(profile.to_json(), nl=False)
        return
    from sencache.profiles.plots import profile_html

    with atomic(html) as temporary:
        temporary.write_text(profile_html(profile), encoding="utf-8")
    typer.echo(f"wrote {html}")


@profiles_app.command("validate")
def profiles_validate(file: options.CheckedFile) -> None:
    """Check a profile file: exit code 2 and one line when it is refused."""
    from sencache.policies.loading import load_profile

    profile = load_profile(file)
    typer.echo(f"{file} is a valid profile of {profile.model.id}, sha256 {profile.sha256}")


@profiles_app.command("import-npz")
def profiles_import_npz(
    file: options.NpzFile,
    out: options.PulledOut = None,
    model: options.NpzModel = None,
    shift: options.NpzShift = None,
    latent: options.NpzLatent = None,
    as_json: options.Json = False,
) -> None:
    """Turn a sensitivity file of the SenCache authors into a profile.

    The official files need no options: what they were measured on is known.
    """
    from sencache.hub.npz import import_npz

    profile = import_npz(file, model=model, shift=shift, latent=_read_sizes(latent))
    _write(profile, out or Path(f"{file.stem}.json"), as_json)


@profiles_app.command("pull")
def profiles_pull(
    file: options.HubFile,
    repo: options.PulledRepo = None,
    revision: options.Revision = None,
    out: options.PulledOut = None,
    own_token: options.OwnToken = False,
    model: options.NpzModel = None,
    shift: options.NpzShift = None,
    latent: options.NpzLatent = None,
    as_json: options.Json = False,
) -> None:
    """Get one profile from the Hub, check it, and write it.

    It is taken from one commit, the newest unless one is given, which is printed; a copy is kept, and used
    without network for a commit that is given.
    """
    from sencache.hub.commit import with_token
    from sencache.hub.download import Hub
    from sencache.hub.exchange import OFFICIAL, pull_profile
    from sencache.hub.official import Stated

    with progress() as bar:
        task = bar.add_task(f"pulling {file}", total=None)
        profile = pull_profile(
            file,
            repo or OFFICIAL,
            revision,
            unlisted=repo is not None,
            stated=Stated(model, shift, _read_sizes(latent)),
            hub=with_token(Hub()) if own_token else None,
            on_bytes=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _write(profile, out or Path(f"{Path(file).stem}.json"), as_json)


@profiles_app.command("push")
def profiles_push(
    profile: options.ProfileName,
    repo: options.PushedRepo,
    name: options.PushedName = None,
    private: options.Private = False,
    as_json: options.Json = False,
) -> None:
    """Put a profile, its plot and a card on the Hub, in one commit; needs your own token."""
    from sencache.hub.exchange import push_profile
    from sencache.profiles.plots import profile_svg

    found = _find_profile(profile)
    name = name or Path(profile).name.removesuffix(".json")
    with progress() as bar:
        bar.add_task(f"pushing {name}", total=None)
        pushed = push_profile(found, repo, name, profile_svg, private=private)
    if as_json:
        print_json(vars(pushed))
        return
    pull = f"profiles pull {pushed.file} --repo {pushed.repo} --revision {pushed.revision}"
    typer.echo(f"{pushed.url}\npushed {pushed.file}, sha256 {pushed.sha256}; anybody gets it with")
    typer.echo(f"python -m sencache {pull}")


def _find_profile(name: str) -> Any:
    from sencache.policies.loading import load_bundled, load_profile

    return load_profile(name) if os.path.isfile(name) else load_bundled(name)


def _write(profile: Any, out: Path, as_json: bool) -> None:
    from sencache.profiles.profile import write_profile

    write_profile(profile, out)
    if as_json:
        origin = {"origin": profile.origin, "repo": profile.repo, "revision": profile.revision}
        print_json({"file": str(out), "model": profile.model.id, "sha256": profile.sha256, **origin})
    else:
        at = f" of {profile.repo} at commit {profile.revision}" if profile.repo else ""
        typer.echo(f"wrote {out}, a profile of {profile.model.id}, sha256 {profile.sha256}")
        typer.echo(f"taken from {profile.origin}{at}")


def _read_sizes(latent: str | None) -> tuple[int, ...] | None:
    if latent is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}(x[0-9]{1,6}){3}", latent):
        raise SencacheError(f"latent {latent[:60]!r} is not four sizes; give it as 16x21x60x104")
    return tuple(int(size) for size in latent.split("x"))
