"""What a model takes, and that a wrong request is told the nearest right one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_requests import STILL, TINY, refusal, request_of
from PIL import Image

from sencache.errors import SencacheError
from sencache.models.model import MODELS, check_request
from sencache.models.stills import read_still, still_pixels
from sencache.schema import MAX_PROMPT

SIDES = range(32, 257, 16)
FRAMES = range(1, 82, 4)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["height", "width"])
@given(value=st.integers(-(10**6), 10**6) | st.integers(-40, 300))
def test_a_side_is_taken_or_the_nearest_one_named(name: str, value: int) -> None:
    if value in SIDES:
        check_request(TINY, request_of(**{name: value}))
    else:
        message = refusal(**{name: value})
        assert f"a {name} of {value} pixels; use a multiple of 16 from 32 to 256" in message
        assert_nearest(message, value, SIDES)


@given(st.integers(-(10**6), 10**6) | st.integers(-40, 100))
def test_frames_are_taken_or_the_nearest_number_named(value: int) -> None:
    if value in FRAMES:
        check_request(TINY, request_of(frames=value))
    else:
        message = refusal(frames=value)
        assert f"cannot make {value} frames; use 4k+1 up to 81" in message
        assert_nearest(message, value, FRAMES)


def assert_nearest(message: str, value: int, valid: range) -> None:
    named = re.search(r"for example (-?\d+)$", message)
    assert named is not None and int(named[1]) in valid
    assert abs(int(named[1]) - value) == min(abs(other - value) for other in valid)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_prompt_says_something_and_may_be_long_but_not_longer(name: str) -> None:
    assert refusal(prompt="\n\t ") == "the prompt is empty; describe the video in a few words"
    check_request(TINY, request_of(**{name: "x" * MAX_PROMPT}))
    assert refusal(**{name: "x" * (MAX_PROMPT + 1)}) == (
        f"the {name.replace('_', ' ')} has 2,001 characters; shorten it to at most 2,000"
    )


def test_a_still_goes_with_models_that_start_from_one() -> None:
    from_still = MODELS["wan-14b-i2v-480p"]
    check_request(from_still, request_of(from_still))
    with pytest.raises(SencacheError, match="makes a video from a still and none is given"):
        check_request(from_still, request_of(from_still, image=None))
    assert "cannot use the image 'cat.png'" in refusal(image=STILL)


def test_a_second_scale_goes_with_a_second_transformer() -> None:
    two = MODELS["wan2.2-a14b"]
    check_request(two, request_of(two, guidance_scale_2=2.0))
    assert "has no second transformer" in refusal(guidance_scale_2=2.0)


def test_a_model_of_one_size_takes_no_other() -> None:
    fixed = MODELS["cogvideox-5b-i2v"]
    with pytest.raises(SencacheError, match="cannot make a height of 320 pixels; its only height is 480"):
        check_request(fixed, request_of(fixed, height=320))


@pytest.mark.parametrize("size", [(64, 48), (30, 200)])
def test_a_still_is_scaled_and_cut_not_squeezed(tmp_path: Path, size: tuple[int, int]) -> None:
    """A white disc in the middle stays round and in the middle."""
    width, height = 400, 300
    y, x = np.mgrid[:height, :width]
    disc = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 < 60**2
    Image.fromarray((disc * 255).astype(np.uint8)).save(tmp_path / "disc.png")
    still = read_still(tmp_path / "disc.png")
    assert still.sha256 == hashlib.sha256((tmp_path / "disc.png").read_bytes()).hexdigest()
    made = np.asarray(still_pixels(still, *size), dtype=float)[..., 0] / 255
    assert made.shape == size
    scale = max(size[0] / height, size[1] / width)
    assert made.sum() == pytest.approx(min(np.pi * (60 * scale) ** 2, made.size), rel=0.4)
    centre = [(made.sum(axis=1 - axis) @ np.arange(size[axis])) / made.sum() for axis in (0, 1)]
    assert centre == pytest.approx([(side - 1) / 2 for side in size], abs=1)


def test_a_picture_is_turned_as_the_camera_noted(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    red = np.asarray(still_pixels(read_still(tmp_path / "turned.png"), 40, 20))[..., 0]
    assert red[:15].min() > 200 and red[25:].max() < 50


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"0" * 40], ids=["empty", "text", "cut"]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "still.png").write_bytes(content)
    with pytest.raises(SencacheError, match=r"'still.png' is not a picture \(.*\); give a PNG or JPEG"):
        read_still(tmp_path / "still.png")
    with pytest.raises(SencacheError, match="cannot read the image"):
        read_still(tmp_path / "missing.png")


def test_a_still_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "still.png")
    still = read_still(tmp_path / "still.png")
    Image.new("RGB", (5, 5)).save(tmp_path / "still.png")
    with pytest.raises(SencacheError, match="was changed meanwhile"):
        still_pixels(still, 4, 4)


def test_requests_without_a_still_are_stored_as_before() -> None:
    """Reports that are sealed already keep their digest."""
    assert {"image", "guidance_scale_2"}.isdisjoint(request_of().model_dump(mode="json"))
    assert request_of(MODELS["wan2.2-a14b-i2v"]).model_dump(mode="json")["image"] == {
        "name": "cat.png",
        "sha256": "0" * 64,
    }


def test_a_budget_may_be_all_steps_but_no_more() -> None:
    check_request(TINY, request_of(steps=7, nfe=7))
    assert "a budget of 8 evaluations exceeds the 7 steps" in refusal(steps=7, nfe=8)
