"""`gallery add`: any finished comparison becomes a card that proves itself, and a bad one leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Program, assert_one_line, tree
from finished import BUNDLED, LANES, OWN, film, finished

from sencache.comparison.verify import verify
from sencache.errors import SencacheError
from sencache.gallery import films
from sencache.gallery.card import CardInfo, check_card, read_card
from sencache.gallery.films import Film, fit, probe, shrink
from sencache.profiles.profile import write_profile
from sencache.video import read_mp4, run_ffmpeg, write_mp4

FILES = {"report.json", "card.json", "thumbnail.png", *(f"{lane}.mp4" for lane in LANES)}


def add(run: Program, folder: Path, to: Path, *more: str) -> dict[str, Any]:
    answer = run("gallery", "add", folder, "--to", to, "--name", "card", "--json", *more)
    assert (answer.code, answer.err) == (0, "")
    return json.loads(answer.out)


# ---- videos


def test_large_videos_become_small_ones_frame_for_frame(run: Program, tmp_path: Path) -> None:
    report = finished(tmp_path / "run", film(832, 480), key="wan-1.3b", device="cuda")
    said = add(run, tmp_path / "run", tmp_path / "gallery")
    card = tmp_path / "gallery" / "card"
    assert set(tree(card)) == FILES
    assert (card / "report.json").read_bytes() == (tmp_path / "run" / "report.json").read_bytes()
    assert (said["width"], said["height"], said["transcoded"], said["crf"]) == (480, 276, True, 20)
    info = CardInfo.model_validate_json((card / "card.json").read_text())
    assert (info.name, info.title, info.fps) == ("card", report.request.prompt, 16)
    # Every frame has its own place of the bar: none is lost, doubled or out of order.
    was, now = read_mp4(tmp_path / "run" / "none.mp4"), read_mp4(card / "none.mp4")
    assert now.shape == (5, 276, 480, 3)
    assert [bar(frame) for frame in now] == pytest.approx([bar(frame) for frame in was], abs=0.01)
    assert verify(read_card(card).report) == []


def bar(frame: np.ndarray[Any, Any]) -> float:
    """Where the light is, as a share of the width."""
    columns = frame.astype(float).sum((0, 2))
    return float((columns * np.arange(len(columns))).sum() / columns.sum() / len(columns))


def test_lanes_share_the_quality_at_which_the_largest_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise takes the most bytes there can be: quality and size fall, for the plain clip beside it alike."""
    monkeypatch.setattr(films, "MOST_BYTES", 9_000)
    monkeypatch.setattr(films, "CRFS", (20, 32))
    monkeypatch.setattr(films, "SCALES", (1.0, 0.4))
    write_mp4(tmp_path / "noise.mp4", film(128, 128, noise=0.9), 16, min_side=1)
    write_mp4(tmp_path / "plain.mp4", film(128, 128), 16, min_side=1)
    (out := tmp_path / "out").mkdir()
    tried: list[str] = []
    shrunk = shrink(sorted(tmp_path.glob("*.mp4")), out, None, lambda choice, done: tried.append(choice))
    assert tried[0] == "128×128, crf 20" and tried[-1] == f"{shrunk.film.size}, crf {shrunk.crf}"
    assert shrunk.film.width < 128 and shrunk.most_bytes <= 9_000
    assert {probe(path) for path in out.iterdir()} == {shrunk.film}
    assert (shrunk.film.frames, shrunk.film.fps) == (5, 16)
    monkeypatch.setattr(films, "MOST_BYTES", 900)
    with pytest.raises(SencacheError, match="do not fit into 0 kB even at 52×52 and crf 32"):
        shrink([tmp_path / "noise.mp4"], out, None, lambda choice, done: None)


def test_nothing_is_enlarged() -> None:
    for size, height, expected in (
        ((832, 480), None, (480, 276)),
        ((480, 832), None, (276, 480)),
        ((256, 256), None, (256, 256)),
        ((832, 480), 240, (416, 240)),
        ((320, 176), 480, (320, 176)),
    ):
        small = fit(Film(*size, 17, Fraction(16)), height)
        assert (small.width, small.height, small.frames, small.fps) == (*expected, 17, 16)


# ---- profiles


def test_a_profile_of_ones_own_goes_along(run: Program, tmp_path: Path) -> None:
    """Without it nobody could recompute the decisions."""
    finished(tmp_path / "run", profile=OWN)
    add(run, tmp_path / "run", tmp_path)
    entry = check_card(read_card(tmp_path / "card"))
    assert [profile.sha256 for profile in entry.profiles] == [OWN.sha256]
    (tmp_path / "run" / "profile.json").rename(tmp_path / "elsewhere.json")
    asked = ("gallery", "add", tmp_path / "run", "--to", tmp_path, "--name", "again")
    assert_one_line(run(*asked), "give the file with --profile")
    assert not (tmp_path / "again").exists()
    assert run(*asked, "--profile", tmp_path / "elsewhere.json").code == 0
    write_profile(OWN.model_copy(update={"dtype": "float16"}), tmp_path / "again" / "profile.json")
    checked = run("gallery", "check", tmp_path)
    assert checked.code == 1 and "card: all holds" in checked.out and "again of" in checked.out


# ---- bad input


def lacks_a_video(folder: Path) -> None:
    (folder / "sencache.mp4").unlink()


def has_text_for_a_video(folder: Path) -> None:
    (folder / "sencache.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:9/x.ts\n")


def says(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / "report.json").read_text()
        (folder / "report.json").write_text(text.replace(old, new, 1))

    return change


def mixes_sizes(folder: Path) -> None:
    write_mp4(folder / "sencache.mp4", film(300, 300), 8)


def has_sound(folder: Path) -> None:
    video, silent = folder / "none.mp4", folder / "silent.mp4"
    video.rename(silent)
    tone = ["-f", "lavfi", "-i", "sine=duration=1", "-map", "0:v", "-map", "1:a", "-c:v", "copy"]
    run_ffmpeg(["-i", str(silent), *tone, str(video)])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lacks_a_video, "lacks sencache.mp4"),
        (has_text_for_a_video, "sencache.mp4 is not a video that can be played"),
        (says('"nfe": 25', '"nfe": 24'), "does not hold: "),
        (says('"none.mp4"', '"../none.mp4"'), "names the video '../none.mp4'"),
        (mixes_sizes, "the videos of one comparison are alike"),
        (has_sound, "none.mp4 holds h264, aac"),
    ],
)
def test_what_does_not_hold_is_refused_and_leaves_nothing(
    run: Program, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    finished(tmp_path / "run")
    spoil(tmp_path / "run")
    assert_one_line(run("gallery", "add", tmp_path / "run", "--to", tmp_path / "new" / "gallery"), said)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--to", "gallry"), "'gallry' is neither a folder that exists nor a dataset; write ./NAME"),
        (("--to", "hf://datasets/x"), "'x' is not a repository"),
        (("--to", "./g", "--name", "../x"), "'../x' is no name for a card"),
        (("--to", "./g", "--height", "20"), "height 20 is not from 64 to 1080"),
        (("--to", "./g", "--private"), "--private is of a dataset"),
        (("--to", "./g", "--profile", "none.json"), "cannot read profile none.json"),
    ],
)
def test_a_bad_option_is_one_sentence(
    run: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(run("gallery", "add", BUNDLED, *options), said)
    assert tree(tmp_path) == set()


def test_a_card_is_replaced_whole_and_only_when_asked(run: Program, tmp_path: Path) -> None:
    finished(tmp_path / "run", profile=OWN)
    add(run, tmp_path / "run", tmp_path / "gallery")
    place = tmp_path / "gallery" / "card"
    asked = ("gallery", "add", BUNDLED, "--to", tmp_path / "gallery", "--name", "card")
    assert_one_line(run(*asked), "card exists; give another name, or --replace")
    assert (place / "profile.json").exists()
    assert run(*asked, "--replace").code == 0
    assert not (place / "profile.json").exists() and (place / "control.mp4").exists()
    assert [path.name for path in place.parent.iterdir()] == ["card"]
    bad = tmp_path / "bad"
    shutil.copytree(BUNDLED, bad)
    has_text_for_a_video(bad)
    assert_one_line(run("gallery", "add", bad, *asked[3:], "--replace"), "sencache.mp4")
    assert check_card(read_card(place)).report.digest


def test_small_videos_stay_as_they_are_and_a_list_names_the_card(run: Program, tmp_path: Path) -> None:
    said = add(run, BUNDLED, tmp_path)
    assert (said["transcoded"], said["crf"], said["width"]) == (False, None, 256)
    for video in BUNDLED.glob("*.mp4"):
        assert (tmp_path / "card" / video.name).read_bytes() == video.read_bytes()
    (tmp_path / "notes").mkdir()
    (card,) = json.loads(run("gallery", "list", tmp_path, "--json").out)["cards"]
    assert (card["name"], card["model"], len(card["lanes"])) == ("card", "tiny-wan", 9)
    assert "card" in run("gallery", "list", tmp_path).out
    assert_one_line(run("gallery", "list", "you/cards"), "write you/cards@COMMIT with its full hash")
