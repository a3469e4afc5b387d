"""`python -m sencache gallery …`: finished comparisons made into cards, listed and checked."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from sencache.cli import options
from sencache.cli.console import print_json, print_lines, progress
from sencache.errors import SencacheError

gallery_app = typer.Typer(
    help="Make finished comparisons into cards that an app shows; list and check cards.", no_args_is_help=True
)


@gallery_app.command("add")
def gallery_add(
    folder: options.ReportFolder,
    to: options.GalleryTarget,
    name: options.CardName = None,
    height: options.CardHeight = None,
    profile: options.CardProfiles = None,
    private: options.Private = False,
    replace: options.ReplaceCard = False,
    as_json: options.Json = False,
) -> None:
    """Make a finished comparison into a card: its report, small videos, a thumbnail.

    FOLDER is as `compare` wrote it, or the app's comparison.zip unpacked. Its report must hold, as `verify`
    finds it, and goes into the card byte for byte. The videos are encoded again where the long side has more
    than 480 pixels or a file more than 300 kB: all lanes at one size and one quality, which card.json and the
    page state; frames and frame rate stay.

    An app shows the cards in examples/gallery and those that its variable SENCACHE_GALLERY names: for a
    dataset, the line to set is printed.
    """
    from sencache.gallery.card import check_name
    from sencache.gallery.datasets import read_target
    from sencache.gallery.making import card_name, check_height, read_finished

    target = read_target(to)
    check_height(height)
    if private and isinstance(target, Path):
        raise SencacheError(f"--private is of a dataset, and {target} is a folder; leave it out")
    finished = read_finished(folder, profile or ())
    called = check_name(name or card_name(finished.report))
    if isinstance(target, Path):
        made = _make(finished, target / called, height, replace)
        where = {"folder": str(target / called)}
        lines = [f"wrote {target / called}"]
    else:
        made, pushed = _push(finished, target, called, height, private, replace)
        where = {**vars(pushed), "setting": pushed.setting}
        lines = [pushed.url, f"pushed the card {called}; an app shows it with", pushed.setting]
    if as_json:
        print_json({**made, **where})
    else:
        print_lines([_describe_videos(made), *lines])


def _make(finished: Any, place: Path, height: int | None, replace: bool = False) -> dict[str, Any]:
    """The card as the folder `place`; what its card.json says, and the size of its largest video."""
    from sencache.files import whole_folder
    from sencache.gallery.card import read_card
    from sencache.gallery.making import make_card

    with whole_folder(place, replace) as folder, progress() as bar:
        task = bar.add_task("videos", total=len(finished.report.lanes))

        def on_video(choice: str, done: int) -> None:
            bar.update(task, description=f"videos at {choice}", completed=done)

        make_card(finished, folder, place.name, height, on_video)
    entry = read_card(place)
    assert entry.info is not None
    largest = max(path.stat().st_size for path in entry.files if path.suffix == ".mp4")
    stated = entry.info.model_dump(by_alias=True)
    return {**stated, "videos": len(entry.report.lanes), "largest_bytes": largest}


def _push(
    finished: Any, repo: str, name: str, height: int | None, private: bool, replace: bool
) -> tuple[dict[str, Any], Any]:
    """The same of a card that was made only to be pushed, and the push; a missing token is found first."""
    from sencache.gallery.card import read_card
    from sencache.gallery.datasets import push_card
    from sencache.hub.commit import with_token
    from sencache.hub.download import Hub

    try:
        hub = with_token(Hub())
    except SencacheError as error:
        raise SencacheError(
            f"{repo} is taken for a dataset, as a folder is written ./{repo}: {error}"
        ) from None
    with tempfile.TemporaryDirectory(prefix="sencache-card-") as folder:
        made = _make(finished, Path(folder) / name, height)
        return made, push_card(
            read_card(Path(folder) / name), repo, private=private, replaced=replace, hub=hub
        )


def _describe_videos(made: dict[str, Any]) -> str:
    how = f"encoded again, H.264 crf {made['crf']}" if made["transcoded"] else "as they were"
    size = f"{made['width']}×{made['height']}, {made['frames']} frames"
    return f"{made['videos']} videos of {size}: {how}, at most {made['largest_bytes']:,} bytes each"


@gallery_app.command("list")
def gallery_list(place: options.GalleryPlace, as_json: options.Json = False) -> None:
    """List the cards of a folder, or of a dataset at one commit, without proving them."""
    from sencache.cli.tables import cards_table

    entries, left_out = _read_cards(place, prove=False)
    cards, problems = [_summary(entry) for entry in entries], [str(problem) for problem in left_out]
    if as_json:
        print_json({"cards": cards, "left_out": problems})
    else:
        Console().print(cards_table(cards))
        print_lines(problems)


@gallery_app.command("check")
def gallery_check(place: options.GalleryPlace, as_json: options.Json = False) -> None:
    """Prove the cards of a folder, or of a dataset at one commit, as an app does when it starts: every
    decision is recomputed and every video decoded; exit code 1 when something does not hold.
    """
    entries, left_out = _read_cards(place, prove=True)
    names, problems = [entry.name for entry in entries], [str(problem) for problem in left_out]
    if as_json:
        print_json({"ok": not problems, "hold": names, "left_out": problems})
    else:
        print_lines([*(f"{name}: all holds" for name in names), *problems])
    if problems:
        raise typer.Exit(1)


def _read_cards(place: str, prove: bool) -> tuple[list[Any], list[Any]]:
    """The cards in `place`, and what is left out of them."""
    from sencache.gallery.card import check_card, read_card
    from sencache.gallery.datasets import LeftOut, folders_of, owners_hub, read_place

    folders, left_out = folders_of(read_place(place), owners_hub())
    entries = []
    for folder in folders:
        try:
            entry = read_card(folder, place)
            entries.append(check_card(entry) if prove else entry)
        except SencacheError as error:
            left_out.append(LeftOut(f"{folder.name} of {place}", str(error)))
    return entries, left_out


def _summary(entry: Any) -> dict[str, Any]:
    report, info = entry.report, entry.info
    return {
        "name": entry.name,
        "prompt": report.request.prompt,
        "model": report.model.key,
        "device": report.model.device,
        "lanes": [lane.name for lane in report.lanes],
        "videos": info.videos if info else None,
        "digest": report.digest,
    }
