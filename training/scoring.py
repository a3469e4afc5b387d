"""Shares of what is right: what was asked for against what is read from clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.captions import Content

# Of each object; the others are of the clip as a whole.
OF_OBJECTS = ("colour", "shape", "size", "motion")
ASPECTS = (*OF_OBJECTS, "background", "count", "everything")


@dataclass(frozen=True)
class Score:
    """How many of how many were right, by aspect."""

    right: dict[str, int]
    of: dict[str, int]

    def share(self, aspect: str) -> float:
        """In 0..1; 0 when nothing was asked."""
        return self.right[aspect] / max(self.of[aspect], 1)


def compare(asked: Content, seen: Content) -> dict[str, list[bool]]:
    """Right or wrong: one entry per object asked for, or one per clip. An object is known by its colour."""
    by_colour = {thing.colour: thing for thing in seen.things}
    verdicts: dict[str, list[bool]] = {aspect: [] for aspect in ASPECTS}
    for thing in asked.things:
        found = by_colour.get(thing.colour)
        for aspect in OF_OBJECTS:
            same = found is not None and getattr(found, aspect) == getattr(thing, aspect)
            verdicts[aspect].append(same)
    verdicts["background"].append(asked.background == seen.background)
    verdicts["count"].append(len(asked.things) == len(seen.things))
    verdicts["everything"].append(all(right for rights in verdicts.values() for right in rights))
    return verdicts


def score(pairs: Iterable[tuple[Content, Content]]) -> Score:
    """The sum over pairs of what was asked for and what was seen."""
    verdicts = [compare(asked, seen) for asked, seen in pairs]
    return Score(
        right={aspect: sum(sum(verdict[aspect]) for verdict in verdicts) for aspect in ASPECTS},
        of={aspect: sum(len(verdict[aspect]) for verdict in verdicts) for aspect in ASPECTS},
    )


def table(scores: Sequence[tuple[str, Score]]) -> str:
    """A Markdown table, one row per entry."""
    lines = [f"| | {' | '.join(ASPECTS)} |", "|---" * (len(ASPECTS) + 1) + "|"]
    for name, result in scores:
        cells = " | ".join(f"{100 * result.share(aspect):.1f} %" for aspect in ASPECTS)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)
