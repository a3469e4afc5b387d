"""The measuring stick: right on what was drawn, wrong on what was changed, at chance on noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sencache.models.words import BACKGROUNDS, COLOURS
from training import checking, clips, vision
from training.captions import PLAIN_BACKGROUNDS, Content, Thing
from training.scoring import ASPECTS, OF_OBJECTS, compare, score, table

MIRRORED = {"right": "left", "left": "right"}
FLIPPED = {"up": "down", "down": "up"}
BACKWARDS = {**MIRRORED, **FLIPPED, "grow": "shrink", "shrink": "grow"}


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Content, np.ndarray]]:
    rng = np.random.default_rng(11)
    sample = [clips.sample_clip(rng, held_out=bool(i % 2)) for i in range(50)]
    return [(clip.content, clips.render(clip)) for clip in sample]


def moving(content: Content, motions: dict[str, str]) -> Content:
    things = [replace(thing, motion=motions.get(thing.motion, thing.motion)) for thing in content.things]
    return Content(tuple(things), content.background)


def test_drawn_clips_are_read_right(drawn: list[tuple[Content, np.ndarray]]) -> None:
    result = score((content, vision.read(video)) for content, video in drawn)
    assert {aspect: result.share(aspect) for aspect in ASPECTS if result.share(aspect) < 0.99} == {}


def test_noise_is_near_chance() -> None:
    result = checking.of_noise(20, seed=1)
    assert result.share("background") <= 2 / len(BACKGROUNDS)
    assert {aspect: result.share(aspect) for aspect in OF_OBJECTS if result.share(aspect) > 0.1} == {}
    assert result.share("everything") == 0


def test_time_runs_backwards(drawn: list[tuple[Content, np.ndarray]]) -> None:
    some = [(moving(content, BACKWARDS), vision.read(video[::-1])) for content, video in drawn[:15]]
    assert score(some).share("everything") >= 0.93


def test_the_mirror_swaps_left_and_right(drawn: list[tuple[Content, np.ndarray]]) -> None:
    # Textures change in the mirror.
    some = [pair for pair in drawn if pair[0].background in PLAIN_BACKGROUNDS][:15]
    read = [(moving(content, MIRRORED), vision.read(video[:, :, ::-1])) for content, video in some]
    assert score(read).share("everything") >= 0.93


def test_other_colours_are_other_objects(drawn: list[tuple[Content, np.ndarray]]) -> None:
    for content, video in drawn[:12]:
        thing = content.things[0]
        other = next(c for c in COLOURS if c not in [t.colour for t in content.things])
        swapped = Content((replace(thing, colour=other), *content.things[1:]), content.background)
        verdict = compare(swapped, vision.read(video))
        assert not verdict["colour"][0] and not verdict["everything"][0] and verdict["count"] == [True]


def test_a_little_noise_changes_nothing(drawn: list[tuple[Content, np.ndarray]]) -> None:
    rng = np.random.default_rng(0)
    some = [
        (content, vision.read(video + rng.normal(0, 0.08, video.shape).astype(np.float32)))
        for content, video in drawn[:20]
    ]
    assert score(some).share("everything") >= 0.95


def test_an_empty_clip_has_no_objects() -> None:
    for name in BACKGROUNDS:
        empty = np.repeat(clips.background(name)[None], clips.FRAMES, axis=0)
        assert vision.read(empty) == Content((), name)


def test_scores_are_counted_per_object_and_per_clip() -> None:
    red = Thing("red", "circle", "small", "up")
    blue = Thing("blue", "square", "large", "still")
    asked = Content((red, blue), "gray")
    seen = Content((replace(red, shape="square"), Thing("pink", "circle", "small", "up")), "gray")
    result = score([(asked, asked), (asked, seen)])
    assert result.of == {**dict.fromkeys(OF_OBJECTS, 4), "background": 2, "count": 2, "everything": 2}
    assert result.right == {
        **{"colour": 3, "shape": 2, "size": 3, "motion": 3},
        **{"background": 2, "count": 2, "everything": 1},
    }
    assert "| mine | 75.0 % | 50.0 % |" in table([("mine", result)])
