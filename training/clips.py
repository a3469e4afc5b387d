"""Procedural clips with captions: 17 frames of 64x64, drawn from signed distances with soft edges.

Objects keep to lanes of their own, in the caption's order: rows from the top when nobody moves vertically,
columns from the left otherwise. So a caption says where its objects are, and they never overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sencache.models.words import BACKGROUNDS, COLOURS, SHAPES
from training.captions import MOTIONS, PLAIN_BACKGROUNDS, Content, Thing, is_held_out, write_caption

FRAMES, SIDE = 17, 64
Array = np.ndarray[Any, np.dtype[np.float32]]

PALETTE = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.12, 0.75, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.98, 0.88, 0.12),
    "purple": (0.62, 0.18, 0.80),
    "orange": (1.0, 0.52, 0.05),
    "cyan": (0.10, 0.85, 0.90),
    "pink": (1.0, 0.50, 0.75),
}
# Radii in pixels; the gaps between them are what the checker tells sizes by.
RADII = {"small": (6.8, 7.8), "medium": (10.0, 11.0), "large": (14.0, 15.5)}
SQUARE, TRIANGLE = 0.86, 0.62  # half a side, and the inscribed circle, over the radius
VERTICAL, CHANGING = ("up", "down", "bounce"), ("grow", "shrink")
# Motions that fit into a third of the picture; the captions of three objects stay short as well.
ALONG_ROWS, ALONG_COLUMNS = ("right", "left", "still", "spin"), ("up", "down", "still", "spin")
# Of one, two and three objects: which attributes belong to which takes more examples than how one looks.
COUNTS, TRAINED_COUNTS = (0.62, 0.28, 0.10), (0.40, 0.40, 0.20)


@dataclass(frozen=True)
class Path:
    """Where one object is in each frame: centre, radius (pixels) and angle (radians), each [FRAMES]."""

    x: Array
    y: Array
    radius: Array
    angle: Array


@dataclass(frozen=True)
class Clip:
    """What it shows, its caption, and the path of every object."""

    content: Content
    caption: str
    paths: tuple[Path, ...]


def sample_clip(rng: np.random.Generator, held_out: bool = False) -> Clip:
    """One clip of the training set or, if `held_out`, one whose objects all have triples it lacks."""
    content = sample_content(rng, held_out)
    spoken = content.background not in PLAIN_BACKGROUNDS or rng.random() > 0.12 or held_out
    variants = [0 if held_out else int(rng.random() < 0.15) for _ in content.things]
    return Clip(content, write_caption(content, spoken, variants), place(content, rng))


def sample_content(rng: np.random.Generator, held_out: bool = False) -> Content:
    """One to three objects of different colours, and a background."""
    count = int(rng.choice((1, 2, 3), p=COUNTS if held_out else TRAINED_COUNTS))
    motions = MOTIONS if count < 3 else (ALONG_ROWS, ALONG_COLUMNS)[int(rng.integers(2))]
    things: list[Thing] = []
    while len(things) < count:
        thing = _sample_thing(rng, count, motions)
        if is_held_out(thing) == held_out and thing.colour not in [other.colour for other in things]:
            things.append(thing)
    return Content(tuple(things), str(rng.choice(BACKGROUNDS)))


def _sample_thing(rng: np.random.Generator, count: int, motions: Sequence[str]) -> Thing:
    motion, shape = str(rng.choice(motions)), str(rng.choice(SHAPES))
    if motion == "spin" and shape == "circle":
        shape = str(rng.choice(SHAPES[1:]))
    sizes = ("small", "medium", "large")[: 4 - count]
    if motion in CHANGING:
        sizes = sizes[1:]
    return Thing(str(rng.choice(COLOURS)), shape, str(rng.choice(sizes)), motion)


# ---- paths


def place(content: Content, rng: np.random.Generator) -> tuple[Path, ...]:
    """A path for every object, in its lane."""
    count, columns = len(content.things), any(thing.motion in VERTICAL for thing in content.things)
    lane = SIDE / count
    paths = []
    for index, thing in enumerate(content.things):
        middle = (index + 0.5) * lane
        centre, room = ((middle, SIDE / 2), (lane, SIDE)) if columns else ((SIDE / 2, middle), (SIDE, lane))
        paths.append(_path(thing, centre, room, rng))
    return tuple(paths)


def _path(
    thing: Thing, centre: tuple[float, float], room: tuple[float, float], rng: np.random.Generator
) -> Path:
    """`centre` and `room` (x, y) of the lane in pixels."""
    u = np.linspace(0, 1, FRAMES, dtype=np.float32)
    radius = rng.uniform(*RADII[thing.size])
    reach = radius * (1.25 if thing.shape == "triangle" and thing.motion == "spin" else 1.08)
    free = [max(side / 2 - reach - 1, 0) for side in room]  # how far the centre may be from the middle
    x, y = _offsets(thing.motion, free, u, rng)
    slack = [max(f - float(np.abs(offset).max()), 0) for f, offset in zip(free, (x, y), strict=True)]
    jitter = [rng.uniform(-1, 1) * min(s, 8.0) for s in slack]
    scale = {"grow": 0.45 + 0.55 * u, "shrink": 1 - 0.55 * u}.get(thing.motion, np.ones_like(u))
    turn = rng.choice((-1, 1)) * rng.uniform(0.9, 1.3) * math.pi if thing.motion == "spin" else 0.0
    # An upright triangle's box, not its centroid, is what is centred.
    lower = 0.5 * TRIANGLE * radius * scale if thing.shape == "triangle" and thing.motion != "spin" else 0.0
    return Path(centre[0] + jitter[0] + x, centre[1] + jitter[1] + y + lower, radius * scale, turn * u)


def _offsets(motion: str, free: Sequence[float], u: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Displacement from the middle of the path per frame, in pixels."""
    zero, phase, part = np.zeros_like(u), rng.uniform(0, 2 * math.pi), rng.uniform(0.85, 1.0)
    wave: Callable[[float], Array] = lambda limit: part * limit * np.sin(2 * math.pi * u + phase)  # noqa: E731
    ramp: Callable[[float], Array] = lambda limit: part * limit * (2 * u - 1)  # noqa: E731
    if motion in ("right", "left"):
        return ramp(min(free[0], 18)) * (1 if motion == "right" else -1), zero
    if motion in ("up", "down"):
        return zero, ramp(min(free[1], 18)) * (1 if motion == "down" else -1)
    if motion == "side":
        return wave(min(free[0], 16)), zero
    if motion == "bounce":
        return zero, wave(min(free[1], 16))
    if motion == "orbit":
        radius = part * min(*free, 14)
        around = phase + rng.choice((-1, 1)) * 2 * math.pi * u
        return radius * np.cos(around), radius * np.sin(around)
    return zero, zero


# ---- drawing


@lru_cache(maxsize=1)
def _grid() -> tuple[Array, Array]:
    ys, xs = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5
    return xs[None], ys[None]


def shape_mask(shape: str, path: Path) -> Array:
    """How much of each pixel the shape covers, [frames, SIDE, SIDE] in 0..1."""
    xs, ys = _grid()
    columns = (
        np.asarray(v, dtype=np.float32).reshape(-1, 1, 1) for v in (path.x, path.y, path.radius, path.angle)
    )
    x, y, r, a = columns
    dx, dy = xs - x, ys - y
    if shape == "circle":
        inside = r - np.sqrt(dx * dx + dy * dy)
    else:
        across, along = np.cos(a) * dx + np.sin(a) * dy, -np.sin(a) * dx + np.cos(a) * dy
        inside = _square(across, along, r) if shape == "square" else _triangle(across, along, r)
    coverage: Array = np.clip(inside + 0.5, 0, 1).astype(np.float32)
    return coverage


def _square(across: Array, along: Array, r: Array) -> Array:
    return SQUARE * r - np.maximum(np.abs(across), np.abs(along))


def _triangle(across: Array, along: Array, r: Array) -> Array:
    # Equilateral, tip up, around its centroid.
    sides = np.maximum(math.sqrt(0.75) * np.abs(across) - 0.5 * along, along)
    inside: Array = TRIANGLE * r - sides
    return inside


@lru_cache(maxsize=8)
def background(name: str) -> Array:
    plain = {"black": 0.03, "white": 0.96, "gray": 0.50}
    if name in plain:
        return np.full((SIDE, SIDE, 3), plain[name], dtype=np.float32)
    ys, xs = np.mgrid[0:SIDE, 0:SIDE]
    light = (xs + ys) // 8 % 2 if name == "striped" else (xs // 8 + ys // 8) % 2
    shade = np.where(light == 1, 0.62, 0.34) * (1.1 - 0.2 * ys / SIDE)
    return np.repeat(shade[..., None], 3, axis=-1).astype(np.float32)


def render(clip: Clip) -> Array:
    """[FRAMES, SIDE, SIDE, 3] in 0..1."""
    video = np.repeat(background(clip.content.background)[None], FRAMES, axis=0)
    for thing, path in zip(clip.content.things, clip.paths, strict=True):
        mask = shape_mask(thing.shape, path)[..., None]
        video = video * (1 - mask) + np.asarray(PALETTE[thing.colour], dtype=np.float32) * mask
    return video.astype(np.float32)


def render_batch(clips: Sequence[Clip]) -> Array:
    """[N, 3, FRAMES, SIDE, SIDE] in -1..1, the layout of an autoencoder's input."""
    return np.ascontiguousarray(np.stack([render(clip) for clip in clips]).transpose(0, 4, 1, 2, 3) * 2 - 1)
