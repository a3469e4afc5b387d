"""What the bundled models' prompts may say, and what a visitor is told who says something else."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from sencache.models.words import COLOURS, EXAMPLE, SHAPES, SYNONYMS, hint
from training.captions import MOTIONS, Content, Thing, is_held_out, write_caption

TRIPLES = list(itertools.product(COLOURS, SHAPES, MOTIONS))


def thing(colour: str, shape: str, motion: str, size: str = "medium") -> Thing:
    return Thing(colour, shape, size, motion)


def test_captions_read_as_english() -> None:
    square, circle = thing("orange", "square", "right", "small"), thing("blue", "circle", "orbit")
    assert (
        write_caption(Content((square, circle), "striped"))
        == "a small orange square moving right, and a blue circle moving in a circle, on a striped background"
    )
    assert (
        write_caption(Content((square,), "gray"), say_background=False)
        == "a small orange square moving right"
    )
    orange = thing("orange", "triangle", "spin")
    assert (
        write_caption(Content((orange,), "gray"), variants=[1])
        == "an orange triangle rotating, on a gray background"
    )
    three = write_caption(Content((square, circle, orange), "black"))
    assert three.count(",") == 3 and ", and an orange" in three


def test_one_triple_in_eight_is_held_out_but_no_pair_and_whatever_the_size() -> None:
    kept = [triple for triple in TRIPLES if not is_held_out(thing(*triple))]
    assert len(kept) == len(TRIPLES) * 7 // 8
    for a, b in itertools.combinations(range(3), 2):
        assert {(triple[a], triple[b]) for triple in kept} == {(triple[a], triple[b]) for triple in TRIPLES}
    for triple in TRIPLES[::7]:
        assert len({is_held_out(thing(*triple, size)) for size in ("small", "medium", "large")}) == 1


def test_no_hint_where_every_word_is_known() -> None:
    for triple in TRIPLES[::13]:
        assert hint(write_caption(Content((thing(*triple),), "checkered"))) is None
        assert hint(write_caption(Content((thing(*triple),), "white"), variants=[1]).upper()) is None
    assert hint("") is None and hint("... , !") is None


@pytest.mark.parametrize(
    ("prompt", "word", "suggestion"),
    [
        ("a red ball moving right", "ball", "circle"),
        ("a yelow circle", "yelow", "yellow"),
        ("ein roter Kreis", "kreis", None),
    ],
)
def test_a_hint_names_the_word_and_the_nearest_known(prompt: str, word: str, suggestion: str | None) -> None:
    sentence = hint(prompt)
    assert sentence is not None and f"“{word}”" in sentence
    if suggestion:
        assert f"“{word}” (try “{suggestion}”)" in sentence


def test_what_a_hint_suggests_is_known() -> None:
    assert hint(EXAMPLE) is None
    assert [near for near in SYNONYMS.values() if hint(near) is not None] == []
    assert [word for word in SYNONYMS if hint(word) is None] == []


def test_a_long_prompt_gets_a_short_hint() -> None:
    sentence = hint(" ".join(f"word{'x' * i}" for i in range(40)))
    assert sentence is not None and "and 36 more" in sentence and len(sentence) < 500


def test_the_hint_needs_no_framework() -> None:
    script = "import sys, sencache.models.words; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "diffusers", "transformers"}
