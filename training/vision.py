"""Reading a clip back by classical vision: which colours, shapes, sizes, motions, and what is behind them.

Nothing here is learned. The background is the one that explains most pixels; objects are found by their
palette colour after dropping one-pixel borders, where colours mix; shapes by comparing coverage with drawn
templates; motions by the track of the centre, the area and the angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sencache.models.words import BACKGROUNDS, COLOURS, SHAPES
from training.captions import Content, Thing
from training.clips import PALETTE, SIDE, SQUARE, TRIANGLE, Array, Path, background, shape_mask

Bits = np.ndarray[Any, np.dtype[np.bool_]]

# A colour is an object when its core has this many pixels in half of the frames.
CORE, PRESENT = 12, 0.5
# Area over radius squared.
FACTOR = {"circle": math.pi, "square": 4 * SQUARE**2, "triangle": 3 * math.sqrt(3) * TRIANGLE**2}
SIZE_LIMITS = (8.9, 12.5)
STILL, TURNED, STRAIGHT, ROUND = 2.6, math.radians(50), 0.6, 0.45
ANGLES = 12  # of a full period, for templates


@dataclass(frozen=True)
class Track:
    """One object in the frames that show it: coverage [frames, SIDE, SIDE] in 0..1, centre and area."""

    coverage: Array
    x: Array
    y: Array
    area: Array


def read(video: Array) -> Content:
    """What `video` [T, H, W, 3] in 0..1 shows, as far as it can be read; objects by colour."""
    behind = background_of(video)
    tracks = find(video, background(behind))
    things = tuple(_describe(colour, track) for colour, track in tracks.items())
    return Content(things, behind)


def background_of(video: Array) -> str:
    """The background that the median frame is nearest to; how far an object's pixels are does not matter."""
    middle = np.median(video, axis=0)
    distances = {
        name: float(np.minimum(np.abs(middle - background(name)).mean(-1), 0.25).mean())
        for name in BACKGROUNDS
    }
    return min(distances, key=lambda name: distances[name])


def find(video: Array, behind: Array) -> dict[str, Track]:
    nearest = _nearest_colour(video, behind)
    cores = {colour: _eroded(nearest == index) for index, colour in enumerate(COLOURS)}
    counts = {colour: core.sum((1, 2)) for colour, core in cores.items()}
    seen = {colour: cores[colour] for colour, count in counts.items() if (count >= CORE).mean() >= PRESENT}
    return {colour: _track(video, behind, colour, core) for colour, core in seen.items()}


def _nearest_colour(video: Array, behind: Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Index of the palette colour of every pixel, or -1 where the background is nearer."""
    palette = np.asarray([PALETTE[colour] for colour in COLOURS], dtype=np.float32)
    to_colours = np.square(video[..., None, :] - palette).sum(-1)
    to_behind = np.square(video - behind).sum(-1)
    return np.where(to_colours.min(-1) < to_behind, to_colours.argmin(-1), -1)


def _eroded(mask: Bits) -> Bits:
    """Pixels whose four neighbours are set as well."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    inner: Bits = (
        mask & padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2]
    )
    return inner


def _grown(mask: Bits, times: int) -> Bits:
    for _ in range(times):
        padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
        mask = padded[:, 2:, 1:-1] | padded[:, :-2, 1:-1] | padded[:, 1:-1, 2:] | padded[:, 1:-1, :-2] | mask
    return mask


def _track(video: Array, behind: Array, colour: str, core: Bits) -> Track:
    frames = core.sum((1, 2)) >= CORE // 2
    towards = np.asarray(PALETTE[colour], dtype=np.float32) - behind
    share = ((video - behind) * towards).sum(-1) / np.square(towards).sum(-1)
    coverage = (np.clip(share, 0, 1) * _grown(core, 3))[frames]
    area = coverage.sum((1, 2))
    ys, xs = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    x, y = ((coverage * axis).sum((1, 2)) / area for axis in (xs, ys))
    return Track(coverage, x.astype(np.float32), y.astype(np.float32), area)


def _describe(colour: str, track: Track) -> Thing:
    shape, angles = _shape(track)
    return Thing(colour, shape, _size(shape, track), _motion(shape, angles, track))


# ---- shape


def _shape(track: Track) -> tuple[str, Array]:
    """The shape whose templates fit best over all frames, and its angle in each."""
    fits = {shape: _fit(shape, track) for shape in SHAPES}
    best = max(fits, key=lambda shape: float(fits[shape][0].sum()))
    return best, fits[best][1]


def _fit(shape: str, track: Track) -> tuple[Array, Array]:
    """Per frame the best overlap with the template, weighted by area, and the angle where it is reached."""
    scores = np.stack([_overlap(track, _template(shape, angle, track)) for angle in _angles(shape)])
    best = scores.argmax(0)
    return scores.max(0) * np.sqrt(track.area), np.asarray(_angles(shape), dtype=np.float32)[best]


def _template(shape: str, angle: float, track: Track) -> Array:
    """Coverage of the shape with the track's centroid and area."""
    radius = np.sqrt(track.area / FACTOR[shape])
    return shape_mask(shape, Path(track.x, track.y, radius, np.full_like(radius, angle)))


def _overlap(track: Track, template: Array) -> Array:
    """Soft intersection over union per frame."""
    both, either = np.minimum(track.coverage, template), np.maximum(track.coverage, template)
    ratio: Array = both.sum((1, 2)) / either.sum((1, 2)).clip(1e-6)
    return ratio


@lru_cache(maxsize=8)
def _angles(shape: str) -> tuple[float, ...]:
    period = _period(shape)
    return tuple(period * k / ANGLES for k in range(ANGLES)) if shape != "circle" else (0.0,)


def _period(shape: str) -> float:
    """After which turn the shape looks the same."""
    return {"square": math.pi / 2, "triangle": 2 * math.pi / 3}.get(shape, math.inf)


def _size(shape: str, track: Track) -> str:
    radius = math.sqrt(float(np.percentile(track.area, 85)) / FACTOR[shape])
    return "small" if radius < SIZE_LIMITS[0] else "medium" if radius < SIZE_LIMITS[1] else "large"


# ---- motion


def _motion(shape: str, angles: Array, track: Track) -> str:
    count = max(len(track.area) // 5, 1)
    growth = float(track.area[-count:].mean() / track.area[:count].mean())
    if not 0.45 < growth < 2.2:
        return "grow" if growth > 1 else "shrink"
    spans = [float(np.percentile(v, 95) - np.percentile(v, 5)) for v in (track.x, track.y)]
    if max(spans) < STILL:
        return "spin" if _turn(shape, angles) > TURNED else "still"
    if min(spans) > ROUND * max(spans):
        return "orbit"
    along, span = (track.x, spans[0]) if spans[0] > spans[1] else (track.y, spans[1])
    net = float(along[-count:].mean() - along[:count].mean())
    if abs(net) < STRAIGHT * span:
        return "side" if spans[0] > spans[1] else "bounce"
    forwards, backwards = ("right", "left") if spans[0] > spans[1] else ("down", "up")
    return forwards if net > 0 else backwards


def _turn(shape: str, angles: Array) -> float:
    """By how much it turned in all, in one direction."""
    period = _period(shape)
    if math.isinf(period):
        return 0.0
    steps = np.diff(angles)
    steps = (steps + period / 2) % period - period / 2
    return abs(float(steps.sum()))
