"""Calibration of the bundled models, along their own trajectories and on clips."""

from __future__ import annotations

from pathlib import Path

import emulation  # noqa: F401
import numpy as np
import pytest

import sencache
from sencache.calibration.profiling import CalibrationPlan, calibrate
from sencache.profiles.profile import Profile
from sencache.schema import Request
from sencache.video import write_mp4

STEPS = 4


@pytest.mark.parametrize(
    ("key", "on_clips"), [("tiny-wan", True), ("tiny-cogvideox", False), ("tiny-ltx", True)]
)
def test_a_profile_is_that_of_a_cpu(key: str, on_clips: bool, tmp_path: Path) -> None:
    frames = np.linspace(0, 1, 9 * 32 * 32 * 3, dtype=np.float32).reshape(9, 32, 32, 3)
    write_mp4(tmp_path / "clip.mp4", frames, 8)

    def made(device: str) -> Profile:
        model = sencache.load(key, device)
        size = {"steps": STEPS, "height": 32, "width": 32, "frames": 9, "guidance_scale": 4.0}
        clips = [tmp_path / "clip.mp4"] if on_clips else []
        plan = CalibrationPlan(model, Request(prompt="a", **size), ["a red circle"], samples=1, clips=clips)
        return calibrate(plan)

    here, there = made("cuda"), made("cpu")
    assert here.sensitivity == there.sensitivity and here.magcache == there.magcache
    assert here.teacache == there.teacache and here.presets == there.presets
    assert here.forecast == there.forecast
