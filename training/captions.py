"""What a clip shows, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sencache.models.words import BACKGROUNDS, COLOURS, MOTION_PHRASES, SHAPES, SIZE_WORDS

MOTIONS = tuple(MOTION_PHRASES)
# Where a caption names no background it is one of these.
PLAIN_BACKGROUNDS = BACKGROUNDS[:3]


@dataclass(frozen=True)
class Thing:
    """One object of a clip, in the words that the models know."""

    colour: str
    shape: str
    size: str
    motion: str


@dataclass(frozen=True)
class Content:
    """What a clip shows; objects in the order in which the caption names them."""

    things: tuple[Thing, ...]
    background: str


def is_held_out(thing: Thing) -> bool:
    """Whether the triple colour, shape, motion never occurs in training: one in eight does not.

    Every pair of the three does occur.
    """
    colour, shape, motion = (
        COLOURS.index(thing.colour),
        SHAPES.index(thing.shape),
        MOTIONS.index(thing.motion),
    )
    return (colour + 3 * shape + 5 * motion) % 8 == 0


def write_caption(content: Content, say_background: bool = True, variants: Sequence[int] = ()) -> str:
    """`variants` picks per object which of the equivalent phrases is used."""
    choices = [*variants, *(0 for _ in content.things)]
    phrases = [_phrase(thing, choice) for thing, choice in zip(content.things, choices, strict=False)]
    sentence = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])}, and {phrases[-1]}"
    return f"{sentence}, on a {content.background} background" if say_background else sentence


def _phrase(thing: Thing, choice: int) -> str:
    sizes, motions = SIZE_WORDS[thing.size], MOTION_PHRASES[thing.motion]
    size, motion = sizes[choice % len(sizes)], motions[choice % len(motions)]
    words = " ".join(word for word in (size, thing.colour, thing.shape, motion) if word)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
