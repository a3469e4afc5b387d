"""From a finished comparison, as `compare` writes it, to a card."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sencache.comparison.report import Report, load_report
from sencache.comparison.verify import REFERENCE, FindProfile, profiles_at_hand, verify
from sencache.errors import SencacheError
from sencache.gallery import card
from sencache.gallery.card import CardInfo, Entry, videos_of
from sencache.gallery.films import HEIGHTS, Shrunk, shrink
from sencache.policies import METHODS
from sencache.policies.loading import load_all_bundled, load_profile
from sencache.profiles.profile import Profile, write_profile
from sencache.video import read_mp4

# As the page shows it, on a screen with three pixels for one.
THUMBNAIL_WIDTH = 192


@dataclass(frozen=True)
class Finished:
    """A comparison that holds: its folder, its report, and the profiles of its lanes that are not bundled."""

    folder: Path
    report: Report
    profiles: tuple[Profile, ...]


def read_finished(folder: Path, given: Sequence[Path] = ()) -> Finished:
    """The comparison in `folder`; `given` are files of profiles that are not beside the report.

    Raises SencacheError where it is not complete, or with the first thing in it that does not hold.
    """
    if not (folder / card.REPORT).is_file():
        raise SencacheError(f"{folder} holds no {card.REPORT}; give the folder that compare wrote")
    report = load_report(folder / card.REPORT)
    for name in videos_of(report):
        if not (folder / name).is_file():
            raise SencacheError(
                f"{folder} lacks {name}, which its report names; give the folder as compare wrote it"
            )
    known = tuple(map(load_profile, [*given, *sorted(folder.glob("profile*.json"))]))
    find = profiles_at_hand(known)
    used = tuple(_profiles_used(report, find))
    problem = next(iter(verify(report, find)), None)
    if problem:
        raise SencacheError(f"{folder / card.REPORT} does not hold: {problem}; make the comparison anew")
    return Finished(folder, report, used)


def _profiles_used(report: Report, find: FindProfile) -> Iterator[Profile]:
    """Each profile that `verify` will ask for and that does not come with the software, once."""
    bundled = {profile.sha256 for profile in load_all_bundled().values()}
    wanted = {
        lane.profile.sha256: lane.profile for lane in report.lanes if lane.profile and lane.method in METHODS
    }
    yield from (find(reference) for sha256, reference in wanted.items() if sha256 not in bundled)


def card_name(report: Report) -> str:
    """The model and the first words of the prompt, and enough of the digest that no two reports share it."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{report.model.key} {report.request.prompt}".lower())
    whole = words[:40].rsplit("-", 1)[0] if len(words) > 40 else words
    return f"{whole.strip('-')}-{report.digest[:8]}".lstrip("-")


def check_height(height: int | None) -> None:
    """Raise SencacheError for a height that no video of a card has."""
    if height is not None and height not in HEIGHTS:
        raise SencacheError(f"height {height} is not from {HEIGHTS[0]} to {HEIGHTS[-1]}; correct --height")


def make_card(
    finished: Finished,
    into: Path,
    name: str,
    height: int | None = None,
    on_video: Callable[[str, int], object] = lambda choice, done: None,
) -> tuple[Entry, Shrunk]:
    """Write the card of `finished` into the folder `into`, and prove it; `name` is what it is to be called.

    The report stays byte for byte as it was. `height` and `on_video`: see `films.shrink`. Raises
    SencacheError for whatever cannot be made into a card.
    """
    check_height(height)
    report, folder = finished.report, finished.folder
    shutil.copyfile(folder / card.REPORT, into / card.REPORT)
    shrunk = shrink([folder / video for video in videos_of(report)], into, height, on_video)
    for number, profile in enumerate(finished.profiles, 1):
        write_profile(profile, into / ("profile.json" if number == 1 else f"profile-{number}.json"))
    _write_thumbnail(into, report)
    model, film = report.model, shrunk.film
    info = CardInfo(
        name=name,
        title=report.request.prompt,
        source=f"{model.id} on {model.gpu or model.device}, {model.dtype}; report {report.digest[:12]}",
        width=film.width,
        height=film.height,
        frames=film.frames,
        fps=float(film.fps),
        crf=shrunk.crf,
        transcoded=shrunk.crf is not None,
    )
    (into / card.INFO).write_text(info.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
    return card.check_card(card.read_card(into)), shrunk


def _write_thumbnail(folder: Path, report: Report) -> None:
    """The full run's middle frame, no wider than the frames that were generated."""
    full = next(str(lane.video) for lane in report.lanes if lane.method == REFERENCE)
    frames = read_mp4(folder / full)
    image = Image.fromarray(frames[len(frames) // 2])
    width = min(THUMBNAIL_WIDTH, report.request.width, image.width)
    size = (width, max(1, round(width * image.height / image.width)))
    image.resize(size, Image.Resampling.BOX).save(folder / card.THUMBNAIL, optimize=True)
