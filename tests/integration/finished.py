"""A finished comparison of a model that nobody here could run: a bundled report, changed and sealed again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sencache.app.pages.gallery import GALLERY
from sencache.comparison.report import Lane, Report, load_report, write_report
from sencache.policies.loading import load_profile
from sencache.profiles.library import bundled_profile
from sencache.profiles.profile import Profile, write_profile
from sencache.video import write_mp4

LANES = ("none", "fewer-steps", "sencache")
BUNDLED = GALLERY / "2-equal-cost"
# The bundled constants under another hash, as a profile of one's own would have.
OWN = load_profile(bundled_profile("tiny-wan.unipc-50")).model_copy(update={"dtype": "bfloat16"})


def film(width: int, height: int, frames: int = 5, noise: float = 0.0) -> NDArray[np.uint8]:
    """A bright bar that moves; each frame differs, so that none can be lost unnoticed."""
    clip = np.random.default_rng(0).uniform(0, noise, (frames, height, width, 3))
    for number in range(frames):
        left = number * (width - width // 8) // max(frames - 1, 1)
        clip[number, :, left : left + width // 8] += 1 - noise
    return np.rint(clip * 255).astype(np.uint8)


def finished(
    folder: Path,
    clip: NDArray[np.uint8] | None = None,
    profile: Profile | None = None,
    fps: float = 16,
    **model: Any,
) -> Report:
    """Written into `folder` as `compare` does: three lanes, with `clip` in place of the bundled videos."""
    report = load_report(BUNDLED / "report.json")
    lanes = [_lane(lane, profile) for lane in report.lanes if lane.name in LANES]
    asked: dict[str, Any] = {}
    if clip is not None:
        asked = {"frames": len(clip), "width": clip.shape[2], "height": clip.shape[1]}
    asked |= {name: model.pop(name) for name in ("prompt", "seed") if name in model}
    changed = {
        "lanes": tuple(lanes),
        "model": report.model.model_copy(update=model),
        "request": report.request.model_copy(update=asked),
    }
    report = report.model_copy(update=changed).seal()
    folder.mkdir(parents=True, exist_ok=True)
    for lane in lanes:
        if clip is None:
            shutil.copyfile(BUNDLED / str(lane.video), folder / str(lane.video))
        elif lane is lanes[0]:
            write_mp4(folder / str(lane.video), clip, fps)
        else:
            shutil.copyfile(folder / str(lanes[0].video), folder / str(lane.video))
    if profile:
        write_profile(profile, folder / "profile.json")
    write_report(report, folder / "report.json")
    return report


def _lane(lane: Lane, profile: Profile | None) -> Lane:
    if profile is None or lane.profile is None:
        return lane
    used = lane.profile.model_copy(update={"path": "own.json", "sha256": profile.sha256})
    return lane.model_copy(update={"profile": used})
