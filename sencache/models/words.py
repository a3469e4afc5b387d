"""The words the bundled models know: what a prompt may say, and a hint when it says something else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
SHAPES = ("circle", "square", "triangle")
MOTIONS = (
    *("right", "left", "up", "down", "side", "bounce"),
    *("spin", "grow", "shrink", "orbit", "still"),
)
BACKGROUNDS = ("black", "white", "gray", "striped", "checkered")
# Where a caption names no background it is one of these.
PLAIN_BACKGROUNDS = BACKGROUNDS[:3]

# The usual phrase first; the others are seen less often in training.
MOTION_PHRASES = {
    "right": ("moving right", "moving to the right"),
    "left": ("moving left", "moving to the left"),
    "up": ("moving up",),
    "down": ("moving down",),
    "side": ("moving side to side", "swinging side to side"),
    "bounce": ("bouncing up and down", "bouncing"),
    "spin": ("spinning", "rotating"),
    "grow": ("growing",),
    "shrink": ("shrinking",),
    "orbit": ("moving in a circle",),
    "still": ("standing still",),
}
SIZE_WORDS = {"small": ("small", "tiny"), "medium": ("",), "large": ("large", "big")}
GLUE = ("a", "an", "and", "on", "the", "background", ",", ".")

EXAMPLE = "a large red circle moving right, and a small blue square spinning, on a striped background"


@dataclass(frozen=True)
class Thing:
    """One object of a scene, in the words above."""

    colour: str
    shape: str
    size: str
    motion: str

    @property
    def triple(self) -> tuple[str, str, str]:
        """What is kept apart for the test: colour, shape and motion together."""
        return self.colour, self.shape, self.motion


@dataclass(frozen=True)
class Scene:
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


def caption(scene: Scene, say_background: bool = True, variants: Sequence[int] = ()) -> str:
    """The sentence for `scene`; `variants` picks per object which of the equivalent phrases is used."""
    choices = [*variants, *(0 for _ in scene.things)]
    phrases = [_phrase(thing, choice) for thing, choice in zip(scene.things, choices, strict=False)]
    sentence = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])}, and {phrases[-1]}"
    return f"{sentence}, on a {scene.background} background" if say_background else sentence


def _phrase(thing: Thing, choice: int) -> str:
    sizes, motions = SIZE_WORDS[thing.size], MOTION_PHRASES[thing.motion]
    words = " ".join(
        word
        for word in (
            sizes[choice % len(sizes)],
            thing.colour,
            thing.shape,
            motions[choice % len(motions)],
        )
        if word
    )
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def vocabulary() -> tuple[str, ...]:
    """All words a caption can hold, in alphabetical order."""
    phrases = [phrase for group in (*MOTION_PHRASES.values(), *SIZE_WORDS.values()) for phrase in group]
    words = {word for phrase in phrases for word in phrase.split()}
    return tuple(sorted(words | {*COLOURS, *SHAPES, *BACKGROUNDS, *GLUE}))


def hint(prompt: str) -> str | None:
    """A friendly sentence when `prompt` uses words the bundled models never saw, with the nearest they know.

    None when every word is known. The prompt runs all the same: unknown words all look alike to the model.
    """
    known = vocabulary()
    words = dict.fromkeys(re.findall(r"[^\W\d_]+|\d+", prompt.lower()))
    unknown = [word for word in words if word not in known]
    if not unknown:
        return None
    named = ", ".join(_with_suggestion(word, known) for word in unknown[:4])
    more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
    return (
        f"This small model does not know {named}{more}; it knows "
        f"{', '.join(SHAPES)} in {', '.join(COLOURS)}, on {', '.join(BACKGROUNDS)} backgrounds. "
        f"Try “{EXAMPLE}”."
    )


def _with_suggestion(word: str, known: Sequence[str]) -> str:
    near = SYNONYMS.get(word) or next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.72)), None)
    return f"“{word}” (try “{near}”)" if near else f"“{word}”"


SYNONYMS = {
    "ball": "circle",
    "disc": "circle",
    "disk": "circle",
    "dot": "circle",
    "sphere": "circle",
    "box": "square",
    "cube": "square",
    "rectangle": "square",
    "pyramid": "triangle",
    "star": "triangle",
    "grey": "gray",
    "violet": "purple",
    "magenta": "pink",
    "turquoise": "cyan",
    "teal": "cyan",
    "huge": "large",
    "little": "small",
    "turning": "spinning",
    "jumping": "bouncing up and down",
    "orbiting": "moving in a circle",
    "circling": "moving in a circle",
    "expanding": "growing",
    "falling": "moving down",
    "rising": "moving up",
    "stationary": "standing still",
    "static": "standing still",
    "checkerboard": "checkered",
    "chequered": "checkered",
    "stripes": "striped",
}
