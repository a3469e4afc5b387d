"""Every layout as it is published, in its own precisions, calibrated and compared; and every placement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import emulation
import layouts
import numpy as np
import pytest
import torch
from layouts import LAYOUTS
from PIL import Image

from sencache.calibration.profiling import CalibrationPlan, calibrate
from sencache.comparison.compare import Compared, LaneDone, compare
from sencache.comparison.plan import parse_lanes
from sencache.comparison.report import Report
from sencache.comparison.verify import profiles_at_hand, verify
from sencache.models import loading
from sencache.models.checkpoint import find_spec
from sencache.models.model import Model, load
from sencache.models.placement import CHOICES, Placement
from sencache.models.stills import read_still
from sencache.profiles.profile import Profile
from sencache.schema import Request

STEPS = 4
# The others run on every architecture in case_comparisons.py.
METHODS = "sencache,control"


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.save(request.param, tmp_path_factory.mktemp(request.param) / request.param)


def request_for(name: str, place: Path) -> Request:
    layout, image = LAYOUTS[name], None
    if layout.image:
        path = place / "still.png"
        Image.radial_gradient("L").resize((50, 40)).convert("RGB").save(path)
        image = read_still(path)
    size = {"height": layout.height, "width": layout.width, "frames": layout.frames}
    return Request(prompt="a cat", steps=STEPS, guidance_scale=3.0, image=image, nfe=3, **size)


def on_gpu(module: torch.nn.Module) -> bool:
    """Whether all of its weights are."""
    return all(emulation.claimed(weight) for weight in module.parameters())


def compare_lanes(
    model: Model, request: Request, methods: str, profile: Profile | None = None
) -> tuple[Report, dict[str, Any]]:
    frames = {}
    for event in compare(model, request, parse_lanes(methods), profile):
        if isinstance(event, LaneDone):
            frames[event.lane.name] = event.frames
    assert isinstance(event, Compared)
    return event.report, frames


@pytest.mark.parametrize("folder", sorted(LAYOUTS.keys() - {"wan2.2-a14b"}), indirect=True)
def test_it_is_calibrated_and_compared_on_the_gpu(folder: Path, tmp_path: Path) -> None:
    name = folder.name
    model, request = load(find_spec(str(folder), LAYOUTS[name].image), "cuda"), request_for(name, tmp_path)
    assert str(model.dtype).removeprefix("torch.") == model.spec.dtype != "float32"
    assert all(on_gpu(getattr(model.pipe, part)) for part in ("transformer", "vae", "text_encoder"))
    profile = calibrate(CalibrationPlan(model, request, ["a cat"], samples=1))
    report, frames = compare_lanes(model, request, METHODS, profile)
    assert verify(report, profiles_at_hand([profile])) == []
    assert all(np.isfinite(video).all() for video in frames.values())


@pytest.mark.parametrize("folder", ["wan2.2-a14b", "hunyuan"], indirect=True)
def test_wherever_its_parts_wait_the_videos_are_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the layout that the test above leaves out. Tiles are of no effect at this size."""
    request = request_for(folder.name, tmp_path).model_copy(update={"nfe": None})
    expected = dict[str, Any]()
    for choice in CHOICES:
        placement = Placement(*choice, 0, 0)
        monkeypatch.setattr(loading, "choose_placement", lambda *_, chosen=placement: chosen)
        model = load(find_spec(str(folder)), "cuda")
        _, frames = compare_lanes(model, request, "fixed")
        expected = expected or frames
        assert all(np.array_equal(video, expected[name]) for name, video in frames.items()), choice
        encoder, blocks = model.text_encoder or model.pipe.text_encoder, model.pipe.transformer
        assert on_gpu(encoder) == (choice[0] == "device")
        assert on_gpu(blocks) == (choice[1] not in ("blocks", "streamed"))
