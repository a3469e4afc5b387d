"""A card: a folder with one finished comparison, and the proof that it is what it says.

It holds the report as it was written, one video per lane, a thumbnail, card.json with what was done to the
videos, and those profiles of the run that do not come with the software. No other file of a folder is read,
fetched or shown.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image
from pydantic import Field, ValidationError

from sencache.comparison.report import Report, load_report
from sencache.comparison.verify import profiles_at_hand, verify
from sencache.errors import SencacheError
from sencache.gallery.films import Film, probe
from sencache.policies.loading import load_profile
from sencache.profiles import profile as profiles
from sencache.profiles.profile import Profile
from sencache.reading import check_json
from sencache.schema import MAX_PROMPT, Strict, first_problem

REPORT, INFO, THUMBNAIL = "report.json", "card.json", "thumbnail.png"
MAX_VIDEO, MAX_CARD, MAX_CARDS = 2_000_000, 40_000_000, 24
# No more lanes and profiles than fit into one look.
MAX_VIDEOS, MAX_PROFILES = 32, 8
MAX_THUMBNAIL_SIDE = 512

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VIDEO = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}\.mp4")
PROFILE = re.compile(r"profile[A-Za-z0-9_-]{0,60}\.json")
_LIMITS = (
    (re.compile(re.escape(REPORT)), 8_000_000),
    (re.compile(re.escape(INFO)), 64_000),
    (re.compile(re.escape(THUMBNAIL)), 500_000),
    (PROFILE, profiles.MAX_BYTES),
    (_VIDEO, MAX_VIDEO),
)


class CardInfo(Strict):
    """card.json: what a card is called and what its videos are; the JSON contract `sencache.card/1`.

    `crf` is the quality at which all videos were encoded again, None where they are as the comparison wrote
    them. The report's metrics are always those of the original frames.
    """

    schema_: Literal["sencache.card/1"] = Field(default="sencache.card/1", alias="schema")
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    title: Annotated[str, Field(max_length=MAX_PROMPT)]
    source: Annotated[str, Field(max_length=1000)]
    width: Annotated[int, Field(ge=2, le=4096)]
    height: Annotated[int, Field(ge=2, le=4096)]
    frames: Annotated[int, Field(ge=1)]
    fps: Annotated[float, Field(gt=0)]
    codec: Literal["h264"] = "h264"
    crf: Annotated[int, Field(ge=0, le=51)] | None
    transcoded: bool

    @property
    def videos(self) -> str:
        size = f"{self.width}×{self.height}, {self.frames} frames"
        return f"{size}, H.264 crf {self.crf}" if self.transcoded else f"{size}, as compared"


@dataclass(frozen=True)
class Entry:
    """One finished comparison: `folder` holds the report, a video per lane and a thumbnail.

    `profiles` are those in the folder. `source` says from where the card came, None for one that comes with
    the software.
    """

    name: str
    folder: Path
    report: Report
    info: CardInfo | None = None
    profiles: tuple[Profile, ...] = ()
    source: str | None = None

    @property
    def files(self) -> list[Path]:
        own = [REPORT, THUMBNAIL, *videos_of(self.report), *([INFO] if self.info else [])]
        return [*(self.folder / name for name in own), *_profile_files(self.folder)]


def check_name(name: str) -> str:
    """`name` as it is; raises SencacheError for one that no card may have."""
    if not NAME.fullmatch(name):
        raise SencacheError(
            f"{name[:100]!r} is no name for a card; use at most 64 letters, digits, '_' and '-'"
        )
    return name


def limit_of(file: str) -> int | None:
    """How many bytes the file of a card may have; None for a name that no card holds."""
    return next((limit for pattern, limit in _LIMITS if pattern.fullmatch(file)), None)


def videos_of(report: Report) -> list[str]:
    """The files of the lanes' videos; raises SencacheError for a lane without one, or with another path."""
    for lane in report.lanes:
        if not _VIDEO.fullmatch(lane.video or ""):
            raise SencacheError(
                f"the report's lane {lane.name[:60]} names the video {str(lane.video)[:100]!r}, which is "
                "no file of a comparison; give a folder as compare writes it"
            )
    if len(report.lanes) > MAX_VIDEOS:
        raise SencacheError(f"the report has {len(report.lanes)} lanes, a card at most {MAX_VIDEOS}")
    return [str(lane.video) for lane in report.lanes]


def card_folders(folder: Path) -> list[Path]:
    """The folders in `folder` that hold a report; raises SencacheError where there is no such folder."""
    if not folder.is_dir():
        raise SencacheError(f"there is no folder {folder}; give one that holds cards")
    return sorted(path.parent for path in folder.glob(f"*/{REPORT}") if NAME.fullmatch(path.parent.name))


def read_card(folder: Path, source: str | None = None) -> Entry:
    """What is in `folder`, each file known and of a bounded size; nothing is proved yet.

    Raises SencacheError, naming the file, for what is missing, too large or not of its schema.
    """
    _check_size(folder / REPORT)
    report = load_report(folder / REPORT)
    info = None
    if (folder / INFO).exists():
        _check_size(folder / INFO)
        info = parse_info((folder / INFO).read_bytes(), str(folder / INFO))
    entry = Entry(folder.name, folder, report, info, tuple(map(load_profile, _profile_files(folder))), source)
    for path in entry.files:
        _check_size(path)
    total = sum(path.stat().st_size for path in entry.files)
    if total > MAX_CARD:
        raise SencacheError(
            f"{folder} has {total:,} bytes, more than the {MAX_CARD:,} of a card; add it anew"
        )
    return entry


def _profile_files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("profile*.json") if PROFILE.fullmatch(path.name))
    if len(found) > MAX_PROFILES:
        raise SencacheError(
            f"{folder} holds {len(found)} profiles, a card at most {MAX_PROFILES}; remove some"
        )
    return found


def _check_size(path: Path) -> None:
    """Raise SencacheError unless `path` is a plain file within the limit of its name."""
    limit = limit_of(path.name)
    assert limit is not None
    if path.is_symlink() or not path.is_file():
        raise SencacheError(f"{path.parent} lacks the file {path.name}; make the card anew with gallery add")
    if path.stat().st_size > limit:
        raise SencacheError(
            f"{path} has {path.stat().st_size:,} bytes, more than the {limit:,} it may have; "
            "make the card anew with gallery add"
        )


def parse_info(text: bytes, source: str) -> CardInfo:
    """The card.json in `text`; raises SencacheError naming `source` and the field."""
    try:
        return CardInfo.model_validate_json(check_json(text, source))
    except ValidationError as error:
        where, value, problem = first_problem(error)
        raise SencacheError(
            f"{source} is not a sencache.card/1: {where} is {value!r} ({problem}); add the card anew"
        ) from None


def check_card(entry: Entry) -> Entry:
    """`entry` as it is, once all of it is proved.

    Every decision is recomputed from the records and the profiles; every video is decoded, and must have the
    frames that the report tells of and the size that the card does. Raises SencacheError for the first thing
    that does not hold.
    """
    problem = next(iter(verify(entry.report, profiles_at_hand(entry.profiles))), None)
    if problem:
        raise SencacheError(f"the report does not hold: {problem}; make the comparison anew")
    _check_thumbnail(entry.folder / THUMBNAIL)
    _check_videos(entry)
    return entry


def _check_thumbnail(path: Path) -> None:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            fits = max(image.size) <= MAX_THUMBNAIL_SIDE
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SencacheError(f"{path.name} is not a PNG image ({error}); add the card anew") from None
    if not fits:
        raise SencacheError(f"{path.name} is larger than {MAX_THUMBNAIL_SIDE} pixels; add the card anew")


def _check_videos(entry: Entry) -> None:
    names, told = videos_of(entry.report), entry.report.request.frames
    with ThreadPoolExecutor(4) as pool:
        films = dict(zip(names, pool.map(probe, (entry.folder / name for name in names)), strict=True))
    expected, info = films[names[0]], entry.info
    if info:
        expected = Film(info.width, info.height, info.frames, Fraction(info.fps).limit_denominator(1001))
    for name, film in films.items():
        problem = None
        if film.frames != told:
            problem = f"{name} has {film.frames} frames, the report tells of {told}"
        elif film != expected:
            problem = f"{name} is {_describe(film)}, not {_describe(expected)}"
        if problem:
            raise SencacheError(f"{problem}; make the card anew with gallery add")


def _describe(film: Film) -> str:
    return f"{film.size} with {film.frames} frames at {float(film.fps):g} a second"
