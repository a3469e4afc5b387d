"""The synced player in a browser: what is on the screen is the frame it says, in every lane."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio.data_classes import FileData
from stage import served, visited

from sencache.app.pages.player import Clip, Clips, SyncPlayer
from sencache.gallery.films import shrink
from sencache.video import write_mp4

FRAMES, FPS = 32, 12
HOSTILE = '<img src=x onerror="window.pwned=1">${window.pwned=2}{{7*7}}'
LPIPS = [0.001 * k for k in range(FRAMES)]
PSNR = [None if k == 2 else 30.0 + k for k in range(FRAMES)]
# Every lane shows its frame's number as a grey level: LEVEL times the number, brighter by the lane's offset.
LEVEL, OFFSETS = 6, {"full": 0, "same": 0, "brighter": 40}

PIXELS = """(selector) => [...document.querySelectorAll(selector)].map((source) => {
  const canvas = new OffscreenCanvas(16, 16), context = canvas.getContext("2d");
  context.drawImage(source, 0, 0, 16, 16);
  return context.getImageData(8, 8, 1, 1).data[0];
})"""
SETTLED = """() => {
  const videos = [...document.querySelectorAll("video")];
  return videos.length === 4 && videos.every((v) => v.paused && !v.seeking && v.readyState >= 2);
}"""


def clip(folder: Path, name: str, offset: int, **more: Any) -> Clip:
    levels = offset + LEVEL * np.arange(FRAMES, dtype=np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (FRAMES, 64, 64, 3))
    write_mp4(folder / f"{name}.mp4", frames, FPS)
    return Clip(name=name, note="", method="sencache", video=FileData(path=f"{folder}/{name}.mp4"), **more)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = tmp_path_factory.mktemp("clips")
    full = clip(folder, "full", 0, reference=True)
    same = clip(folder, "same", 0, lpips=LPIPS, psnr=PSNR)
    # As a card of the gallery holds it: smaller, and with few key frames.
    shrink([Path(same.video.path)], shrunk := tmp_path_factory.mktemp("card"), 128, lambda choice, done: None)
    same = same.model_copy(update={"video": FileData(path=str(shrunk / "same.mp4"))})
    brighter = clip(folder, "brighter", OFFSETS["brighter"], lpips=LPIPS, psnr=PSNR, focus=True)
    hostile = same.model_copy(update={"name": HOSTILE})
    return Clips(frames=FRAMES, width=64, height=64, clips=[full, same, brighter, hostile])


@pytest.fixture(scope="module")
def url(clips: Clips) -> Iterator[str]:
    with served(lambda: SyncPlayer(clips)) as address:
        yield address


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """Nothing moves unless asked to."""
    with visited(browser, url, reduced_motion="reduce") as opened:
        opened.wait_for_function(SETTLED)
        yield opened


@pytest.fixture(scope="module")
def shared(browser: Any, url: str) -> Iterator[Any]:
    with visited(browser, url, reduced_motion="reduce") as opened:
        opened.wait_for_function(SETTLED)
        yield opened


@pytest.fixture
def still(shared: Any) -> Any:
    """One page for all that plays nothing, at its first frame, side by side."""
    shared.get_by_role("radio", name="Side by side").check(force=True)
    shared.get_by_role("slider", name="Frame").fill("0")
    shared.wait_for_function(SETTLED)
    return shared


def frames_shown(page: Any) -> list[float]:
    """The frame number on the screen of the first two lanes and the third, read from their pixels."""
    full, same, brighter, _ = page.evaluate(PIXELS, ".player video")
    return [round(value / LEVEL, 1) for value in (full, same, brighter - OFFSETS["brighter"])]


def expect_frame(page: Any, frame: int) -> None:
    page.wait_for_function(SETTLED)
    assert page.locator("output.frame").inner_text() == f"{frame + 1} / {FRAMES}"
    assert frames_shown(page) == pytest.approx([frame] * 3, abs=0.4)


def test_the_scrubber_shows_exactly_the_frame_it_names(still: Any) -> None:
    scrubber = still.get_by_role("slider", name="Frame")
    for frame in (0, 1, 13, FRAMES - 1, 7, 6):
        scrubber.fill(str(frame))
        expect_frame(still, frame)


def test_buttons_and_keys_go_one_frame_and_stop_at_the_ends(page: Any) -> None:
    back, forward = (page.get_by_role("button", name=f"{which} frame") for which in ("Previous", "Next"))
    back.click()
    expect_frame(page, 0)
    for frame in (1, 2, 3):
        forward.click()
        expect_frame(page, frame)
    page.get_by_role("slider", name="Frame").focus()
    for key, frame in (("ArrowRight", 4), ("ArrowLeft", 3), ("End", FRAMES - 1)):
        page.keyboard.press(key)
        expect_frame(page, frame)
    forward.click()
    expect_frame(page, FRAMES - 1)


SAMPLE = """(count) => new Promise((done) => {
  const seen = [], context = new OffscreenCanvas(4, 4).getContext("2d", { willReadFrequently: true });
  const look = () => {
    seen.push([...document.querySelectorAll(".player video")].map((video) => {
      context.drawImage(video, 0, 0, 4, 4);
      return context.getImageData(1, 1, 1, 1).data[0];
    }));
    if (seen.length < count) requestAnimationFrame(look); else done(seen);
  };
  look();
})"""


def test_lanes_stay_within_one_frame_of_each_other(page: Any) -> None:
    page.get_by_label("Speed").select_option("2")
    page.get_by_role("button", name="Loop").click()
    page.get_by_role("button", name="Play").click()
    seen = np.array(page.evaluate(SAMPLE, 60)) - np.array([0, 0, OFFSETS["brighter"], 0])
    numbers = np.rint(seen / LEVEL)
    assert numbers.max() - numbers.min() >= 8, "it did play"
    assert np.ptp(numbers, axis=1).max() <= 1


def test_a_lane_that_falls_behind_catches_up(page: Any) -> None:
    page.get_by_label("Speed").select_option("0.5")
    page.get_by_role("button", name="Loop").click()  # A new round would bring them together too.
    page.get_by_role("button", name="Play").click()
    videos = "[...document.querySelectorAll('video')]"
    apart = f"Math.max(...{videos}.map((v) => Math.abs(v.currentTime - {videos}[0].currentTime)))"
    page.wait_for_function(f"{videos}[0].currentTime > 0.3")
    page.evaluate(f"{videos}[1].currentTime += 0.3; {videos}[2].currentTime -= 0.1")
    page.wait_for_function(f"{apart} > 0.09")
    page.wait_for_function(f"{apart} < 0.04")
    assert page.evaluate(f"{videos}.every((v) => !v.paused)")


def test_it_plays_to_the_end_once_or_for_ever(page: Any) -> None:
    loop, play = page.get_by_role("button", name="Loop"), page.locator("button.play")
    page.get_by_label("Speed").select_option("2")
    loop.click()
    assert loop.get_attribute("aria-pressed") == "false"
    page.get_by_role("slider", name="Frame").fill(str(FRAMES - 4))
    play.click()
    page.wait_for_function("document.querySelector('button.play').getAttribute('aria-label') === 'Play'")
    expect_frame(page, FRAMES - 1)
    loop.click()
    play.click()
    page.wait_for_function(f"document.querySelector('output.frame').textContent > '{FRAMES - 4}'")
    page.wait_for_function("parseInt(document.querySelector('output.frame').textContent) < 6")
    assert play.get_attribute("aria-label") == "Pause"


def test_the_difference_is_zero_where_clips_agree_and_measured_where_not(still: Any) -> None:
    still.get_by_role("slider", name="Frame").fill("9")
    still.get_by_role("radio", name="Difference").check(force=True)
    still.wait_for_function(SETTLED)
    same, brighter, hostile = still.evaluate(PIXELS, "figure:not(.reference) canvas")
    assert same == hostile == 0
    assert brighter == pytest.approx(OFFSETS["brighter"], abs=3)
    assert "encoded videos" in still.locator(".player .note").inner_text()
    still.get_by_role("slider", name="Gain").fill("0")
    style = "getComputedStyle(document.querySelector('figure:not(.reference) canvas')).filter"
    assert still.evaluate(style) == "brightness(1)"
    still.get_by_role("slider", name="Gain").fill("4")
    assert still.evaluate(style) == "brightness(16)"


STAGE = """(at) => {
  const canvas = document.querySelector(".stage canvas");
  return [...canvas.getContext("2d").getImageData(Math.floor(at * canvas.width), 9, 1, 1).data].slice(0, 3);
}"""


def test_swipe_shows_one_lane_on_each_side_of_the_border_and_onion_mixes_them(page: Any) -> None:
    page.get_by_role("slider", name="Frame").fill("5")
    page.get_by_role("radio", name="Swipe").check(force=True)
    page.wait_for_function(SETTLED)
    a, b = LEVEL * 5, LEVEL * 5 + OFFSETS["brighter"]
    border = page.get_by_role("slider", name="Border between A and B")
    for place in (25, 75):
        border.fill(str(place))
        for at in (0.1, 0.5, 0.9):
            assert page.evaluate(STAGE, at) == pytest.approx([b if 100 * at > place else a] * 3, abs=3)
    border.press("Home")
    assert page.evaluate(STAGE, 0.1) == pytest.approx([b] * 3, abs=3)
    page.get_by_role("radio", name="Onion").check(force=True)
    for mix in (0, 50, 100):
        page.get_by_role("slider", name="Mix").fill(str(mix))
        assert page.evaluate(STAGE, 0.5)[0] == pytest.approx(a + OFFSETS["brighter"] * mix / 100, abs=3)
    page.get_by_role("slider", name="Mix").fill("100")
    page.get_by_role("combobox", name="B", exact=True).select_option("same")
    assert page.evaluate(STAGE, 0.1) == pytest.approx([a] * 3, abs=3)


def test_values_are_those_of_the_frame_and_identity_is_no_number(still: Any) -> None:
    values = still.locator("figcaption .now")
    for frame, expected in ((2, "identical frame"), (9, "LPIPS 0.0090 · 39.0 dB")):
        still.get_by_role("slider", name="Frame").fill(str(frame))
        assert values.all_inner_texts() == ["the reference", expected, expected, expected]
        marked, plot = (still.locator(f".player {part}").bounding_box() for part in (".marker", ".plot"))
        middle = marked["x"] + marked["width"] / 2 - plot["x"]
        # The thumb's centre runs from 10 px to 10 px before the end.
        assert middle == pytest.approx(10 + (plot["width"] - 20) * frame / (FRAMES - 1), abs=1)
    assert still.locator(".player .plot circle").count() == 3
    # A click on the lines goes to that frame.
    plot = still.locator(".player .plot")
    width = plot.bounding_box()["width"]
    plot.click(position={"x": 10 + (width - 20) * 20 / (FRAMES - 1), "y": 40})
    expect_frame(still, 20)
    # Names stay text.
    assert still.locator("figcaption b").all_inner_texts()[3] == HOSTILE
    assert still.evaluate("window.pwned ?? null") is None
    assert still.locator(".player img").count() == 0


def test_it_plays_by_itself_unless_less_motion_is_wanted(page: Any, browser: Any, url: str) -> None:
    assert page.evaluate("[...document.querySelectorAll('video')].every((v) => v.paused)")
    with visited(browser, url, reduced_motion="no-preference") as lively:
        lively.wait_for_function("[...document.querySelectorAll('video')].some((v) => !v.paused)")


PLAYING = "document.querySelector('button.play').getAttribute('aria-label') === 'Pause'"
PRESSED_TOO_EARLY = """() => {
  for (const video of document.querySelectorAll("video")) video.load();
  document.querySelector("button.play").click();
}"""


def test_play_before_the_videos_have_come_begins_when_they_have(page: Any) -> None:
    page.get_by_role("slider", name="Frame").fill("9")
    page.evaluate(PRESSED_TOO_EARLY)
    page.wait_for_function(PLAYING)
    page.wait_for_function("[...document.querySelectorAll('video')].every((v) => v.currentTime > 0.2)")


@pytest.mark.parametrize("broken", [[0], [0, 1, 2, 3]])
def test_a_video_that_cannot_be_played_holds_up_no_other(
    browser: Any, clips: Clips, tmp_path: Path, broken: list[int]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    damaged = FileData(path=f"{tmp_path}/broken.mp4")
    made = list(clips.clips)
    for n in broken:
        made[n] = made[n].model_copy(update={"video": damaged})
    shown = clips.model_copy(update={"clips": made})
    with served(lambda: SyncPlayer(shown)) as url, visited(browser, url, reduced_motion="reduce") as page:
        failed = "[...document.querySelectorAll('video')].filter((v) => v.error).length"
        page.wait_for_function(f"{failed} === {len(broken)}")
        page.locator("button.play").click()
        if len(broken) < len(made):
            page.wait_for_function(PLAYING)
            page.wait_for_function("[...document.querySelectorAll('video')].some((v) => v.currentTime > 0.2)")
        else:
            assert not page.evaluate(PLAYING)
        values = page.locator("figcaption .now").all_inner_texts()
        assert [n for n, value in enumerate(values) if "cannot be played" in value] == broken


def test_out_of_sight_it_waits(browser: Any, clips: Clips) -> None:
    def below() -> None:
        gr.HTML("<div style='height: 3000px'></div>")
        SyncPlayer(clips)

    with served(below) as url, visited(browser, url, reduced_motion="no-preference") as page:
        page.wait_for_function(SETTLED)
        assert not page.evaluate(PLAYING)
        page.locator(".player .bar").scroll_into_view_if_needed()
        page.wait_for_function(PLAYING)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_function(f"!({PLAYING})")
        page.locator(".player .bar").scroll_into_view_if_needed()
        page.wait_for_function(PLAYING)
        page.locator("button.play").click()
        page.evaluate("scrollTo(0, 0)")
        page.locator(".player .bar").scroll_into_view_if_needed()
        page.wait_for_function(SETTLED)
        assert not page.evaluate(PLAYING), "what the visitor stopped stays so"
