"""The synthetic clips: what a caption says is what is drawn, inside its lane, the same every time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sencache.models.words import MOTION_PHRASES, SHAPES, SIZE_WORDS
from training import checking, clips
from training.captions import is_held_out
from training.clips import FRAMES, PALETTE, SIDE, Path, sample_clip, shape_mask


@pytest.fixture(scope="module")
def sample() -> list[clips.Clip]:
    rng = np.random.default_rng(3)
    return [sample_clip(rng, held_out=bool(i % 2)) for i in range(120)]


def test_the_same_seed_draws_the_same_clips() -> None:
    def draw(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return clips.render_batch([sample_clip(rng) for _ in range(3)])

    assert np.array_equal(draw(1), draw(1)) and not np.array_equal(draw(1), draw(2))


@pytest.mark.parametrize("shown", [False, True])
def test_a_check_asks_for_one_kind_of_triple_and_says_all_of_it(shown: bool) -> None:
    for clip in checking.sample(60, 0, shown):
        assert {is_held_out(thing) for thing in clip.content.things} == {not shown}
        assert all(thing.colour in clip.caption for thing in clip.content.things)
        assert f"on a {clip.content.background} background" in clip.caption


def test_a_caption_names_every_object_in_order_each_of_its_own_colour(sample: list[clips.Clip]) -> None:
    assert {len(clip.content.things) for clip in sample} == {1, 2, 3}
    for index, clip in enumerate(sample):
        assert {is_held_out(thing) for thing in clip.content.things} == {bool(index % 2)}
        assert len({thing.colour for thing in clip.content.things}) == len(clip.content.things)
        parts = clip.caption.replace(", on", " on").replace(" and ", " ").split(",")
        assert len(parts) == len(clip.content.things)
        for part, thing in zip(parts, clip.content.things, strict=True):
            assert f"{thing.colour} {thing.shape}" in part
            assert any(phrase in part for phrase in MOTION_PHRASES[thing.motion])
            assert thing.size == "medium" or any(word in part.split() for word in SIZE_WORDS[thing.size])


def test_objects_stay_inside_and_apart(sample: list[clips.Clip]) -> None:
    for clip in sample:
        masks = [shape_mask(t.shape, p) for t, p in zip(clip.content.things, clip.paths, strict=True)]
        assert np.max(sum(masks)) <= 1 + 1e-6
        for mask in masks:
            edges = [mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]]
            assert max(edge.max() for edge in edges) < 1


def test_objects_come_in_reading_order(sample: list[clips.Clip]) -> None:
    for clip in sample:
        columns = any(thing.motion in ("up", "down", "bounce") for thing in clip.content.things)
        middles = [np.mean(path.x if columns else path.y) for path in clip.paths]
        assert middles == sorted(middles)


@pytest.mark.parametrize(
    ("shape", "area", "angle"),
    [("circle", math.pi, 0.0), ("square", 4 * 0.86**2, 0.5), ("triangle", 5.196 * 0.62**2, 0.5)],
)
def test_shapes_have_the_area_of_geometry(shape: str, area: float, angle: float) -> None:
    one = np.ones(1, dtype=np.float32)
    mask = shape_mask(shape, Path(32 * one, 32 * one, 12 * one, angle * one))
    assert mask.sum() == pytest.approx(area * 144, rel=0.02)
    ys, xs = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    assert (mask * xs).sum() / mask.sum() == pytest.approx(32, abs=0.1)
    assert (mask * ys).sum() / mask.sum() == pytest.approx(32, abs=0.1)


def test_pixels_are_the_palette_inside_and_the_background_outside(sample: list[clips.Clip]) -> None:
    for clip in sample[:20]:
        video = clips.render(clip)
        assert video.shape == (FRAMES, SIDE, SIDE, 3)
        assert video.min() >= 0 and video.max() <= 1
        everywhere = np.zeros((FRAMES, SIDE, SIDE), dtype=bool)
        for thing, path in zip(clip.content.things, clip.paths, strict=True):
            mask = shape_mask(thing.shape, path)
            everywhere |= mask > 0
            np.testing.assert_allclose(
                video[mask == 1], np.tile(PALETTE[thing.colour], ((mask == 1).sum(), 1)), atol=1e-6
            )
        behind = np.broadcast_to(clips.background(clip.content.background), video.shape)
        np.testing.assert_allclose(video[~everywhere], behind[~everywhere], atol=1e-6)


def test_every_shape_looks_different_from_the_others() -> None:
    one = np.ones(1, dtype=np.float32)
    masks = [shape_mask(shape, Path(32 * one, 32 * one, 7 * one, 0 * one)) for shape in SHAPES]
    for i, mask in enumerate(masks):
        for other in masks[i + 1 :]:
            assert np.minimum(mask, other).sum() / np.maximum(mask, other).sum() < 0.9
