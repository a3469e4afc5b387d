"""The comparisons that come with the app: complete, true to their reports, and small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sencache.app.pages.gallery import GALLERY, cards_of, load_gallery, pick_entry
from sencache.app.pages.how import REPLAY, Replay, load_replay
from sencache.app.pages.player import clips_of
from sencache.cli.commands import DEFAULT_METHODS
from sencache.comparison.plan import parse_lanes
from sencache.comparison.summary import key_lanes
from sencache.errors import SencacheError
from sencache.gallery.card import THUMBNAIL, Entry, check_card
from sencache.policies.loading import load_profile
from sencache.profiles.library import bundled_profiles
from sencache.video import read_mp4

NAMES = sorted(path.parent.name for path in GALLERY.glob("*/report.json"))
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in load_gallery()}


@pytest.fixture(scope="module")
def replayed(entries: dict[str, Entry]) -> tuple[Entry, Replay]:
    """The one entry with a recording beside it."""
    (path,) = GALLERY.glob(f"*/{REPLAY}")
    return entries[path.parent.name], load_replay(path)


def test_there_are_a_few_that_differ(entries: dict[str, Entry]) -> None:
    assert 3 <= len(entries) <= 6
    requests = [entry.report.request for entry in entries.values()]
    assert len({request.prompt for request in requests}) == len(requests)
    assert any(request.nfe for request in requests) and any(request.preset == "fast" for request in requests)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_holds_and_is_small(entries: dict[str, Entry], name: str) -> None:
    """What the files show ranks as the report says, as far as the encoding resolves it."""
    entry = entries[name]
    report = check_card(entry).report
    assert [lane.name for lane in report.lanes] == [lane.name for lane in parse_lanes(DEFAULT_METHODS)]
    assert max(path.stat().st_size for path in entry.folder.iterdir()) <= MOST_BYTES
    with Image.open(entry.folder / THUMBNAIL) as thumbnail:
        assert thumbnail.width == 64 and thumbnail.format == "PNG"
    clips = {lane.name: read_mp4(entry.folder / str(lane.video)).astype(float) for lane in report.lanes}
    full = clips.pop("none")
    measured = {lane.name: lane.metrics.psnr for lane in report.lanes if lane.metrics}
    seen = {lane: 10 * np.log10(255**2 / np.mean((clip - full) ** 2)) for lane, clip in clips.items()}
    worst = min(measured, key=lambda lane: measured[lane] or np.inf)
    coarse = [lane for lane in measured if (measured[lane] or np.inf) < 42]
    assert all(seen[lane] == pytest.approx(measured[lane], abs=5) for lane in coarse)
    assert seen[worst] <= min(seen.values()) + 1


def test_the_recording_is_a_table_of_distances_with_the_profiles_sensitivities(
    replayed: tuple[Entry, Replay],
) -> None:
    entry, replay = replayed
    full = entry.report.lanes[0]
    assert replay.timesteps == tuple(record.timestep for record in full.trace)
    table = np.array(replay.latent_rms)
    assert np.array_equal(table, table.T) and not table.diagonal().any()
    assert (table[:, :, None] <= table[:, None, :] + table.T[None, :, :] + 1e-4).all(), "a norm"
    change = np.array(replay.output_change)
    assert not change.diagonal().any() and (change >= 0).all()
    profile = load_profile(bundled_profiles()[Path(replay.profile).stem])
    expected = [profile.sensitivities().at(timestep) for timestep in replay.timesteps]
    assert list(zip(replay.alpha_x, replay.alpha_t, strict=True)) == expected


def test_the_recording_is_of_the_run_that_the_lane_was_measured_against(
    replayed: tuple[Entry, Replay],
) -> None:
    """Up to its first reuse SenCache's lane sees the full run's latents."""
    entry, replay = replayed
    lane = next(lane for lane in entry.report.lanes if lane.name == "sencache")
    first = next(record.step for record in lane.trace if record.decision == "reuse")
    scored = [record for record in lane.trace[: first + 1] if "dx_rms" in record.signals]
    assert len(scored) >= 5
    for record in scored:
        assert record.reference_step is not None
        stored = replay.latent_rms[record.step][record.reference_step]
        assert stored == pytest.approx(record.signals["dx_rms"], rel=1e-3)


def test_a_card_names_sencache_fewer_steps_and_the_closest(entries: dict[str, Entry]) -> None:
    for entry in entries.values():
        lanes = key_lanes(entry.report)
        closest = max(lane.metrics.psnr or np.inf for lane in entry.report.lanes if lane.metrics)
        assert {"sencache", "fewer-steps"} <= {lane.name for lane in lanes}
        assert closest in {lane.metrics.psnr or np.inf for lane in lanes if lane.metrics}
    cards = cards_of(list(entries.values()), NAMES[1])
    assert [card.name for card in cards.cards] == NAMES and cards.open == NAMES[1]


def test_clips_carry_the_reports_values(entries: dict[str, Entry]) -> None:
    entry = entries[NAMES[0]]
    clips = clips_of(entry.report, entry.folder)
    assert (clips.frames, clips.width, clips.height) == (17, 64, 64)
    for clip, lane in zip(clips.clips, entry.report.lanes, strict=True):
        assert Path(clip.video.path) == entry.folder / str(lane.video)
        per_frame = lane.metrics.per_frame if lane.metrics else {"lpips": [], "psnr": []}
        assert clip.lpips == pytest.approx(per_frame["lpips"], abs=1e-6)
        assert clip.psnr == pytest.approx(per_frame["psnr"], abs=1e-3)
    assert [clip.reference for clip in clips.clips] == [True] + [False] * (len(clips.clips) - 1)


def test_only_a_card_can_be_opened(entries: dict[str, Entry]) -> None:
    known = list(entries.values())
    assert pick_entry(known, SimpleNamespace(_data={"name": NAMES[0]})).name == NAMES[0]
    for name in ("../../etc", "", None, "<b>", 7):
        with pytest.raises(SencacheError, match="choose one of its cards"):
            pick_entry(known, SimpleNamespace(_data={"name": name}))


def test_an_incomplete_gallery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SencacheError, match="make_gallery"):
        load_gallery(tmp_path)
    shutil.copytree(GALLERY / NAMES[0], tmp_path / "entry")
    assert len(load_gallery(tmp_path)) == 1
    (tmp_path / "entry" / "sencache.mp4").unlink()
    with pytest.raises(SencacheError, match=r"sencache\.mp4"):
        load_gallery(tmp_path)


def test_a_damaged_recording_is_refused(replayed: tuple[Entry, Replay], tmp_path: Path) -> None:
    data = json.loads(replayed[1].model_dump_json(by_alias=True))
    data["latent_rms"][3].pop()
    path = tmp_path / REPLAY
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SencacheError, match="50 entries a side"):
        load_replay(path)
    with pytest.raises(SencacheError, match="make_gallery"):
        load_replay(tmp_path / "missing.json")
