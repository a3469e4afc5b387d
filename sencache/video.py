"""Frames as arrays, and as small H.264 files that every browser plays.

A clip is a numpy array `[frames, height, width, 3]` of RGB (sRGB) values: floats in [0, 1], or uint8.
"""

import hashlib
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from sencache.errors import SencacheError
from sencache.files import atomic

Frames = NDArray[Any]

_TIMEOUT_SECONDS = 300.0

_ENDS_LIKE_A_HASH = re.compile(r"(^|-)[0-9a-f]{8}$")
_WINDOWS_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")

# The conversion and the tags must name the same matrix, or players show other colours than were written.
# The transfer is tagged as what the frames are, sRGB: tagged bt709, Apple's players would brighten them.
COLOUR_TAGS = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=iec61966-2-1:range=limited"
_TO_YUV = (
    "scale=out_color_matrix=bt709:out_range=limited:flags=area+accurate_rnd+full_chroma_inp,"
    f"format=yuv420p,{COLOUR_TAGS}"
)

# ffmpeg's quick default conversion is a level or two too dark; nearest chroma keeps enlarged pixels flat.
_TO_RGB = ["-sws_flags", "neighbor+accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24"]


def unit_frames(frames: Frames) -> NDArray[np.float32]:
    """As float32 in [0, 1]; raises SencacheError for another shape or type, no frames, or values that are not
    in [0, 1] (NaN included).
    """
    _check_layout(frames)
    if frames.dtype == np.uint8:
        return frames.astype(np.float32) / np.float32(255)
    low, high = frames.min(), frames.max()
    if not (low >= 0 and high <= 1):
        raise SencacheError(
            f"Frames range from {low} to {high}; clamp or scale them to [0, 1], or pass uint8."
        )
    return frames.astype(np.float32, copy=False)


def to_uint8(frames: Frames) -> NDArray[np.uint8]:
    """As uint8, floats in [0, 1] rounded to the nearest of 0..255 (errors: see `unit_frames`)."""
    _check_layout(frames)
    if frames.dtype == np.uint8:
        return frames
    return np.rint(unit_frames(frames) * 255).astype(np.uint8)


def frame_pair(frames: Frames, reference: Frames) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two clips as float32 in [0, 1]; raises SencacheError if their shapes differ, and as `unit_frames`."""
    if frames.shape != reference.shape:
        raise SencacheError(
            f"Frames of shape {frames.shape} cannot be compared with a reference of shape {reference.shape}; "
            "render both with the same frame count, height and width."
        )
    return unit_frames(frames), unit_frames(reference)


def write_mp4(path: str | Path, frames: Frames, fps: float, min_side: int = 256) -> None:
    """Write a clip as H.264 in MP4, ready to stream and to step through in a browser.

    Every frame is a key frame, so that a player can seek to any of them at once. The colours are BT.709,
    limited range, 4:2:0, tagged as such. A clip whose short side is below `min_side` is enlarged by a whole
    factor without smoothing, so that its pixels stay visible; odd sides gain one repeated row or column.
    The file appears under its name only when it is complete; missing folders are made. Raises SencacheError
    for bad frames (see `unit_frames`) or fps, or when ffmpeg is missing, fails or hangs.
    """
    if not 0 < fps < math.inf:
        raise SencacheError(
            f"A video cannot run at {fps} frames per second; pass a positive number such as 16."
        )
    path = Path(path).absolute()
    pixels = _enlarge(to_uint8(frames), min_side)
    _, height, width, _ = pixels.shape
    source = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"]
    source += ["-framerate", str(float(fps)), "-i", "pipe:0"]
    target = ["-c:v", "libx264", "-crf", "18", "-g", "1", "-movflags", "+faststart", "-f", "mp4"]
    try:
        with atomic(path) as partial:
            run_ffmpeg([*source, "-vf", _TO_YUV, *target, str(partial)], pixels.tobytes())
            if not partial.stat().st_size:
                raise RuntimeError("ffmpeg wrote nothing")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise SencacheError(
            f"The video {path} could not be written ({reason(error)}); "
            "check that its folder has space, and that ffmpeg runs."
        ) from error


def read_mp4(path: str | Path) -> NDArray[np.uint8]:
    """Every frame of a video as uint8 `[frames, height, width, 3]`, at the size it is stored in; raises
    SencacheError if the file is missing, damaged or no video.
    """
    path = Path(path).absolute()
    # As a stream of PPM images, because each of them says its size; damage is an error, not a shorter clip.
    target = ["-fps_mode", "passthrough", *_TO_RGB, "-f", "image2pipe", "-c:v", "ppm", "pipe:1"]
    try:
        images = run_ffmpeg(["-xerror", "-err_detect", "explode", "-i", str(path), *target])
        header = re.match(rb"P6\n(\d+) (\d+)\n255\n", images)
        if header is None:
            raise RuntimeError("it holds no frames")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise SencacheError(
            f"The video {path} could not be read ({reason(error)}); check that it exists and is complete."
        ) from error
    width, height = map(int, header.groups())
    pixels = np.frombuffer(images, np.uint8).reshape(-1, header.end() + height * width * 3)
    return pixels[:, header.end() :].reshape(-1, height, width, 3)


def safe_name(name: str) -> str:
    """Turn any name, such as a lane's, into one that is a valid file name (without suffix) on every system.

    The result has only `a-z 0-9 _ -`, no `-` at either end, at most 64 characters, and is no Windows device.
    A name that is like that already stays as it is. Any other is simplified and ends in eight hexadecimal
    digits of its SHA-256, so that different names stay different, on file systems that ignore case too. Dots
    go as well: `Path.with_suffix` would take the end of "tolerance=0.1" for a suffix.
    """
    simple = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")
    # A name that already looks hashed gets a hash of its own, or it could meet that of another name.
    special = _ENDS_LIKE_A_HASH.search(name) or _WINDOWS_DEVICES.fullmatch(name)
    if simple == name and 0 < len(name) <= 64 and not special:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{simple[:55]}-{digest}".lstrip("-")


def _check_layout(frames: Frames) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise SencacheError(f"Frames of shape {frames.shape} are no clip; pass [frames, height, width, 3].")
    if frames.dtype != np.uint8 and not np.issubdtype(frames.dtype, np.floating):
        raise SencacheError(
            f"Frames of type {frames.dtype} have no known range; pass floats in [0, 1] or uint8."
        )


def _enlarge(frames: NDArray[np.uint8], min_side: int) -> NDArray[np.uint8]:
    """By a whole factor, and to even sides."""
    factor = max(1, math.ceil(min_side / min(frames.shape[1:3])))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    _, height, width, _ = frames.shape
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def run_ffmpeg(arguments: list[str], stdin: bytes = b"", timeout: float | None = None) -> bytes:
    """What ffmpeg writes to its standard output; raises OSError or subprocess.SubprocessError."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y", *arguments]
    # A session of its own: Ctrl-C is for the program, which may still want the file.
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        timeout=timeout or _TIMEOUT_SECONDS,
        check=True,
        start_new_session=True,
    )
    return done.stdout


def reason(error: Exception) -> str:
    """The first thing ffmpeg wrote, from which the rest follows, or else what the error says."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"ffmpeg was still busy after {error.timeout:g} seconds"
    text = str(error)
    if isinstance(error, subprocess.CalledProcessError):
        text = error.stderr.decode(errors="replace").strip() or f"ffmpeg exited with {error.returncode}"
    # Without ffmpeg's "[part @ address]" in front.
    return re.sub(r"^(\[[^]]*\] )+", "", text.split("\n", 1)[0]).strip().rstrip(".")
