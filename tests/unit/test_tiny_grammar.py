"""What the bundled models' prompts may say, and what a visitor is told who says something else."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from sencache.models import words as grammar
from sencache.models.words import COLOURS, MOTIONS, SHAPES, Scene, Thing, caption, hint, is_held_out

TRIPLES = [
    Thing(colour, shape, "medium", motion) for colour in COLOURS for shape in SHAPES for motion in MOTIONS
]


def test_captions_read_as_english() -> None:
    things = (Thing("orange", "square", "small", "right"), Thing("blue", "circle", "medium", "orbit"))
    assert (
        caption(Scene(things, "striped"))
        == "a small orange square moving right, and a blue circle moving in a circle, on a striped background"
    )
    assert caption(Scene(things[:1], "gray"), say_background=False) == "a small orange square moving right"
    orange = Thing("orange", "triangle", "medium", "spin")
    assert (
        caption(Scene((orange,), "gray"), variants=[1]) == "an orange triangle rotating, on a gray background"
    )
    three = Scene((*things, orange), "black")
    assert caption(three).count(",") == 3 and ", and an orange" in caption(three)


def test_one_triple_in_eight_is_held_out_but_no_pair() -> None:
    kept = [thing for thing in TRIPLES if not is_held_out(thing)]
    assert len(kept) == len(TRIPLES) * 7 // 8
    for a, b in itertools.combinations(range(3), 2):
        everything = {(thing.triple[a], thing.triple[b]) for thing in TRIPLES}
        assert {(thing.triple[a], thing.triple[b]) for thing in kept} == everything


def test_size_is_no_part_of_what_is_held_out() -> None:
    for thing in TRIPLES[::7]:
        others = [
            Thing(thing.colour, thing.shape, size, thing.motion) for size in ("small", "medium", "large")
        ]
        assert {is_held_out(other) for other in others} == {is_held_out(thing)}


@pytest.mark.parametrize("thing", TRIPLES[::13])
def test_no_hint_where_every_word_is_known(thing: Thing) -> None:
    assert hint(caption(Scene((thing,), "checkered"))) is None
    assert hint(caption(Scene((thing,), "white"), variants=[1]).upper()) is None


@pytest.mark.parametrize(
    ("prompt", "word", "suggestion"),
    [
        ("a red ball moving right", "ball", "circle"),
        ("a crimsn sky", "sky", None),
        ("a yelow circle", "yelow", "yellow"),
        ("a blue cube spining", "spining", "spinning"),
        ("ein roter Kreis", "kreis", None),
    ],
)
def test_a_hint_names_the_word_and_the_nearest_known(prompt: str, word: str, suggestion: str | None) -> None:
    said = hint(prompt)
    assert said is not None and f"“{word}”" in said
    if suggestion:
        assert f"“{word}” (try “{suggestion}”)" in said


def test_what_a_hint_suggests_is_known() -> None:
    assert hint(grammar.EXAMPLE) is None
    assert [near for near in grammar.SYNONYMS.values() if hint(near) is not None] == []
    assert [word for word in grammar.SYNONYMS if hint(word) is None] == []


def test_a_long_prompt_gets_a_short_hint() -> None:
    said = hint(" ".join(f"word{'x' * i}" for i in range(40)))
    assert said is not None and "and 36 more" in said and len(said) < 500


def test_the_empty_prompt_and_punctuation_need_no_hint() -> None:
    assert hint("") is None and hint("... , !") is None


def test_the_hint_needs_no_framework() -> None:
    script = "import sys, sencache.models.words; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "diffusers", "transformers"}
