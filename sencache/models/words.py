"""The words the bundled models know: what a prompt may say, and a hint when it says something else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
SHAPES = ("circle", "square", "triangle")
BACKGROUNDS = ("black", "white", "gray", "striped", "checkered")
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

_SUGGESTIONS = {
    "circle": ("ball", "disc", "disk", "dot", "sphere"),
    "square": ("box", "cube", "rectangle"),
    "triangle": ("pyramid", "star"),
    "gray": ("grey",),
    "purple": ("violet",),
    "pink": ("magenta",),
    "cyan": ("turquoise", "teal"),
    "large": ("huge",),
    "small": ("little",),
    "spinning": ("turning",),
    "bouncing up and down": ("jumping",),
    "moving in a circle": ("orbiting", "circling"),
    "growing": ("expanding",),
    "moving down": ("falling",),
    "moving up": ("rising",),
    "standing still": ("stationary", "static"),
    "checkered": ("checkerboard", "chequered"),
    "striped": ("stripes",),
}
SYNONYMS = {word: known for known, words in _SUGGESTIONS.items() for word in words}


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
