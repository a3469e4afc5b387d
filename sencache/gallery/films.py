"""Videos of a comparison: looked at before they are trusted, and made small enough for a page."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path

from sencache.errors import SencacheError
from sencache.video import COLOUR_TAGS, reason, run_ffmpeg

LONG_SIDE, MOST_BYTES = 480, 300_000
HEIGHTS = range(64, 1081)
# Tried in this order: first coarser, then smaller.
CRFS, SCALES = (20, 24, 28, 32), (1.0, 0.8, 0.64, 0.5, 0.4)
# A player reaches any frame by decoding at most so many, and no frame waits for a later one.
KEY_FRAME_EVERY = 8

MAX_PIXELS = 2048 * 2048
# Of another format the demuxer might follow addresses and paths within the file.
_INPUT = [
    *("-protocol_whitelist", "file,pipe", "-f", "mp4", "-max_pixels", str(MAX_PIXELS)),
    *("-xerror", "-err_detect", "explode"),
]
_PROBE_SECONDS = 30.0


@dataclass(frozen=True)
class Film:
    """What a video is: pixels of a frame, number of frames, frames per second."""

    width: int
    height: int
    frames: int
    fps: Fraction

    @property
    def size(self) -> str:
        return f"{self.width}×{self.height}"


@dataclass(frozen=True)
class Shrunk:
    """What the videos of a card became; `crf` is None where they were small enough as they were."""

    film: Film
    crf: int | None
    most_bytes: int


def probe(path: Path) -> Film:
    """Look through a whole video, decoding every frame.

    Raises SencacheError unless it is an MP4 with one H.264 stream, no other, and an even frame rate.
    """
    copied = ["-map", "0", "-c", "copy", "-f", "framehash", "pipe:1"]
    decoded = ["-map", "0:v:0", "-f", "null", "-"]
    try:
        listed = run_ffmpeg([*_INPUT, "-i", str(path), *copied, *decoded], timeout=_PROBE_SECONDS).decode()
    except (OSError, subprocess.SubprocessError) as error:
        raise SencacheError(
            f"{path.name} is not a video that can be played ({reason(error)}); make it anew with compare"
        ) from None
    # Streams, then packets; a packet of H.264 in MP4 is a frame.
    kinds = re.findall(r"#codec_id \d+: (\w+)", listed)
    if kinds != ["h264"]:
        raise SencacheError(
            f"{path.name} holds {', '.join(kinds) or 'nothing'}; a card's video is one H.264 stream alone"
        )
    width, height = map(int, re.findall(r"#dimensions 0: (\d+)x(\d+)", listed)[0])
    tick = Fraction(re.findall(r"#tb 0: (\d+/\d+)", listed)[0])
    packets = re.findall(r"^0, +-?\d+, +(-?\d+), +(\d+),", listed, re.MULTILINE)
    lengths = {int(length) for _, length in packets}
    times = sorted(int(time) for time, _ in packets)
    if len(lengths) != 1 or 0 in lengths or {after - before for before, after in pairwise(times)} - lengths:
        raise SencacheError(
            f"{path.name} has no even frame rate, so frames cannot be stepped through; encode it anew"
        )
    return Film(width, height, len(packets), 1 / (min(lengths) * tick))


def shrink(
    sources: Sequence[Path], into: Path, height: int | None, on_video: Callable[[str, int], object]
) -> Shrunk:
    """Write the videos into the folder `into` under their names, all at one size and one quality.

    The long side becomes at most 480 pixels, or the height at most `height`; nothing is enlarged. Quality
    and then size are lowered until every video has at most 300 kB: for all alike, as else one lane would look
    better for having been compressed less. Videos that are like that already are copied as they are. Frames
    and their times stay. `on_video(size and quality, videos done)` is called as the work goes on.

    Raises SencacheError where a video cannot be read, they differ in shape, or none of this is enough.
    """
    film = _one_film(sources)
    largest_first = sorted(sources, key=lambda path: -path.stat().st_size)
    target = fit(film, height)
    if target == film and (most := largest_first[0].stat().st_size) <= MOST_BYTES:
        for source in sources:
            shutil.copyfile(source, into / source.name)
        return Shrunk(film, None, most)
    for scale, crf in product(SCALES, CRFS):
        smaller = _scale(target, Fraction(scale))
        sizes = list(_encode_all(largest_first, into, smaller, crf, on_video))
        if max(sizes) <= MOST_BYTES:
            return Shrunk(smaller, crf, max(sizes))
    raise SencacheError(
        f"{film.frames} frames do not fit into {MOST_BYTES // 1000} kB even at {smaller.size} and crf {crf}; "
        "give a smaller --height"
    )


def _one_film(sources: Sequence[Path]) -> Film:
    """What all of the videos are."""
    film = probe(sources[0])
    for path in sources[1:]:
        if (other := probe(path)) != film:
            raise SencacheError(
                f"{path.name} has {other.frames} frames of {other.size}, {sources[0].name} {film.frames} of "
                f"{film.size}; the videos of one comparison are alike, so give the folder of one"
            )
    return film


def fit(film: Film, height: int | None) -> Film:
    """`film` within the limit: even sides, as the encoding needs them, and never larger than it was."""
    wanted = Fraction(height, film.height) if height else Fraction(LONG_SIDE, max(film.width, film.height))
    return _scale(film, min(Fraction(1), wanted))


def _scale(film: Film, by: Fraction) -> Film:
    width, height = (max(2, 2 * round(side * by / 2)) for side in (film.width, film.height))
    return replace(film, width=min(width, film.width), height=min(height, film.height))


def _encode_all(
    sources: Sequence[Path], into: Path, film: Film, crf: int, on_video: Callable[[str, int], object]
) -> Iterator[int]:
    """Bytes of one video after the other; the first that is too large is the last."""
    scale = f"scale={film.width}:{film.height}:flags=lanczos+accurate_rnd,format=yuv420p,{COLOUR_TAGS}"
    stream = ["-map", "0:v:0", "-map_metadata", "-1", "-fps_mode", "passthrough", "-vf", scale]
    coded = ["-c:v", "libx264", "-preset", "slow", "-crf", str(crf), "-g", str(KEY_FRAME_EVERY), "-bf", "0"]
    for done, source in enumerate(sources):
        on_video(f"{film.size}, crf {crf}", done)
        target = into / source.name
        written = ["-movflags", "+faststart", "-f", "mp4", str(target)]
        try:
            run_ffmpeg([*_INPUT, "-i", str(source), *stream, *coded, *written])
        except (OSError, subprocess.SubprocessError) as error:
            raise SencacheError(
                f"{source} could not be made smaller ({reason(error)}); check that the disk has space"
            ) from None
        yield target.stat().st_size
        if target.stat().st_size > MOST_BYTES:
            return
