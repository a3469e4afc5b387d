"""What is written, as an independent parser and decoder see it; and names that are safe everywhere."""

import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sencache import video
from sencache.errors import SencacheError
from sencache.video import read_mp4, safe_name, to_uint8, write_mp4

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
LUMA = np.array([0.2126, 0.7152, 0.0722])  # BT.709


def ramp(count: int = 5, height: int = 64, width: int = 64) -> NDArray[np.float64]:
    """A moving colour gradient."""
    t, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (count, height, width)), indexing="ij")
    return np.stack([x, y, (x + y + t) / 3], axis=-1)


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of every MP4 box in file order, containers before what they contain."""
    while data:
        size, kind = struct.unpack_from(">I4s", data)
        assert 8 <= size <= len(data)
        yield kind, data[8:size]
        if kind in CONTAINERS:
            yield from boxes(data[8:size])
        data = data[size:]


def ffmpeg(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=60)


def planes(path: Path, side: int = 256) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """The Y, Cb and Cr that are stored in the first frame of a square video."""
    stored = ffmpeg("-loglevel", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-").stdout
    values, area = np.frombuffer(stored, np.uint8), side * side
    return values[:area], values[area : area * 5 // 4], values[area * 5 // 4 : area * 3 // 2]


def use_program(monkeypatch: pytest.MonkeyPatch, path: Path, body: str) -> None:
    """Let a Python script stand in for ffmpeg; its last argument is the file to write."""
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(path))


def test_the_frames_come_back(tmp_path: Path) -> None:
    frames = ramp()
    write_mp4(tmp_path / "a.mp4", frames, fps=8)
    read = read_mp4(tmp_path / "a.mp4")
    assert read.shape == (5, 256, 256, 3)
    blocks = read.reshape(5, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    error = blocks - to_uint8(frames)
    assert np.abs(error).mean() < 1.5
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.5  # no colour cast


@pytest.mark.parametrize("count", [1, 17])
def test_every_frame_is_there_in_order_and_is_a_key_frame(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.mp4"
    grey = np.linspace(0, 1, count)
    write_mp4(path, grey[:, None, None, None] * np.ones((count, 32, 32, 3)), fps=16)
    assert read_mp4(path).mean(axis=(1, 2, 3)) == pytest.approx(grey * 255, abs=1.5)
    found = dict(boxes(path.read_bytes()))
    assert struct.unpack_from(">I", found[b"stsz"], 8)[0] == count
    only_key_frames = ffmpeg("-skip_frame", "nokey", "-i", path, "-f", "null", "-").stderr.decode()
    assert int(re.findall(r"frame=\s*(\d+)", only_key_frames)[-1]) == count


def test_the_file_is_what_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, ramp(), fps=12.5)
    order = [kind for kind, _ in boxes(path.read_bytes())]
    assert order.index(b"moov") < order.index(b"mdat")
    described = dict(boxes(path.read_bytes()))[b"stsd"]
    assert b"avc1" in described
    primaries, transfer, matrix = struct.unpack_from(">HHH", described, described.index(b"colrnclx") + 8)
    assert (primaries, transfer, matrix) == (1, 13, 1)  # BT.709, sRGB, BT.709
    stream = ffmpeg("-i", path).stderr.decode()
    assert re.search(r"Video: h264 .*yuv420p\(tv, bt709/bt709/iec61966-2-1.*256x256.* 12\.50? fps", stream)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50)])
def test_colours_are_stored_with_the_matrix_of_their_tag(tmp_path: Path, colour: tuple[int, ...]) -> None:
    frames = np.broadcast_to(np.array(colour, np.uint8), (2, 32, 32, 3))
    write_mp4(tmp_path / "a.mp4", frames, fps=8)
    red, _, blue = np.array(colour) / 255
    luma = LUMA @ np.array(colour) / 255
    expected = 16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748
    for plane, value in zip(planes(tmp_path / "a.mp4"), expected, strict=True):
        assert plane.mean() == pytest.approx(value, abs=1)
    assert read_mp4(tmp_path / "a.mp4").reshape(-1, 3).mean(axis=0) == pytest.approx(colour, abs=2)


@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [
        ((63, 65), 256, (316, 326)),  # 5 x 63 = 315 and 5 x 65 = 325, made even
        ((300, 301), 256, (300, 302)),
        ((2, 3), 256, (256, 384)),
        ((32, 48), 1, (32, 48)),
    ],
)
def test_small_clips_are_enlarged_by_a_whole_factor(
    tmp_path: Path, size: tuple[int, int], min_side: int, expected: tuple[int, int]
) -> None:
    write_mp4(tmp_path / "a.mp4", np.full((2, *size, 3), 0.5), fps=8, min_side=min_side)
    assert read_mp4(tmp_path / "a.mp4").shape == (2, *expected, 3)


def test_enlarging_keeps_pixels_sharp(tmp_path: Path) -> None:
    board = np.indices((32, 32)).sum(axis=0) % 2 * 255
    write_mp4(tmp_path / "a.mp4", np.repeat(board[None, :, :, None], 3, axis=3).astype(np.uint8), fps=8)
    read = read_mp4(tmp_path / "a.mp4")[0, :, :, 1].astype(int)
    assert np.abs(read - board.repeat(8, axis=0).repeat(8, axis=1)).max() < 30


def test_bytes_and_floats_write_the_same_file(tmp_path: Path) -> None:
    write_mp4(tmp_path / "float.mp4", ramp(), fps=8)
    write_mp4(str(tmp_path / "byte.mp4"), to_uint8(ramp()), fps=8)
    assert (tmp_path / "float.mp4").read_bytes() == (tmp_path / "byte.mp4").read_bytes()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "open(sys.argv[-1], 'w').write('half'); sys.exit('[out#0 @ 0x5] No space left.\\nGiving up')",
            "No space left",
        ),
        ("sys.exit(3)", "exited with 3"),
        ("open(sys.argv[-1], 'w').write('half'); time.sleep(60)", "still busy after 0.5 seconds"),
        ("sys.stdin.buffer.read()", "ffmpeg wrote nothing"),
    ],
)
def test_a_failure_says_why_and_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.mp4").write_text("old")
    use_program(monkeypatch, tmp_path / "ffmpeg", body)
    monkeypatch.setattr(video, "_TIMEOUT_SECONDS", 0.5 if "sleep" in body else 30)
    with pytest.raises(SencacheError, match=rf"a\.mp4 could not be written \([^[]*{reason}") as caught:
        write_mp4(folder / "a.mp4", ramp(2), fps=8)
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["a.mp4"]
    assert (folder / "a.mp4").read_text() == "old"


def test_a_missing_ffmpeg_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(SencacheError, match="No ffmpeg exe could be found"):
        write_mp4(tmp_path / "a.mp4", ramp(2), fps=8)


def test_a_file_in_place_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SencacheError, match="choose a writable folder"):
        write_mp4(tmp_path / "file" / "a.mp4", ramp(2), fps=8)


@pytest.mark.parametrize("fps", [0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(SencacheError, match="pass a positive number"):
        write_mp4(tmp_path / "a.mp4", ramp(2), fps=fps)


@pytest.mark.parametrize(
    ("frames", "remedy"),
    [
        (np.zeros((32, 32, 3)), r"pass \[frames, height, width, 3\]"),
        (np.zeros((2, 32, 32, 4)), r"pass \[frames, height, width, 3\]"),
        (np.zeros((0, 32, 32, 3)), r"pass \[frames, height, width, 3\]"),
        (np.zeros((2, 32, 32, 3), np.int64), "int64.*uint8"),
        (np.full((2, 32, 32, 3), 2.0), "clamp or scale"),
    ],
)
def test_what_is_no_clip_is_refused(tmp_path: Path, frames: NDArray[np.float64], remedy: str) -> None:
    with pytest.raises(SencacheError, match=remedy):
        write_mp4(tmp_path / "a.mp4", frames, fps=8)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_whole_is_named(tmp_path: Path) -> None:
    """A video that is cut off is refused rather than read short."""
    path, whole = tmp_path / "a.mp4", tmp_path / "whole.mp4"
    write_mp4(whole, np.random.default_rng(0).random((5, 64, 64, 3)), fps=8)
    data = whole.read_bytes()
    contents = [None, b"", b"not a video" * 100, *(data[: int(len(data) * part)] for part in (0.3, 0.99))]
    message = r"a\.mp4 could not be read .* check that it exists and is complete"
    for content in contents:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SencacheError, match=message):
            read_mp4(path)
    ffmpeg("-y", "-f", "lavfi", "-i", "testsrc", "-frames:v", "0", path)
    with pytest.raises(SencacheError, match=message):
        read_mp4(path)


def test_floats_round_to_the_nearest_byte() -> None:
    levels = np.arange(256)
    for offset in (-0.49, 0, 0.49):
        values = np.clip((levels + offset) / 255, 0, 1).reshape(1, 16, 16, 1).repeat(3, axis=3)
        assert np.array_equal(to_uint8(values)[0, :, :, 0].ravel(), levels)
    half = np.array([0.25, 0.5, 1.0], np.float16).reshape(1, 1, 1, 3)
    assert to_uint8(half).ravel().tolist() == [64, 128, 255]


def test_plain_names_stay_and_others_can_still_be_recognised() -> None:
    for name in ("none", "fewer-steps", "a_1"):
        assert safe_name(name) == name
    assert re.fullmatch(r"sencache-forecast-linear-[0-9a-f]{8}", safe_name("sencache:forecast=linear"))
    assert safe_name("sencache:tolerance=0.1").startswith("sencache-tolerance-0-1-")


DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


@given(st.text(max_size=300))
@example("")
@example("\ud800")
@example("../../etc/passwd")
@example("con")
@example("LPT1.txt")
@example("nul.")
@example("-x")
@example("x" * 65)
def test_any_name_becomes_safe(name: str) -> None:
    safe = safe_name(name)
    assert re.fullmatch(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?", safe)
    assert len(safe) <= 64
    assert safe not in DEVICES
    assert safe == safe_name(name)


ALIKE = st.text(alphabet="aA-_.: =é0", max_size=6)


@given(st.sets(ALIKE, min_size=2, max_size=30))
@example({"a", "A", "a.", "a ", ".a", "a:", "a=", "á", "-a", "a-"})
@example({"A", safe_name("A")})
@example({"", safe_name("")})
@example({"x" * 64, "x" * 65, "x" * 66})
def test_different_names_stay_different(names: set[str]) -> None:
    assert len({safe_name(name).lower() for name in names}) == len(names)
