"""A Space whose MODEL_ID is no entry of the list: a comparison ends with all that it is handed over as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest

from sencache.app.deliver import snippets
from sencache.app.events import Done
from sencache.app.request import make_request, plan_request
from sencache.app.service import ComparisonService
from sencache.comparison import compare as comparison
from sencache.comparison.report import load_report
from sencache.video import to_uint8

STEPS = 6


class Run:
    """One comparison of a Space, and the frames it came to before they were encoded."""

    def __init__(self, folder: Path, layout: str, patch: pytest.MonkeyPatch) -> None:
        self.frames: dict[str, Any] = {}
        whole = comparison.run_job

        def noted(*asked: Any) -> Iterator[comparison.Event]:
            for event in whole(*asked):
                if isinstance(event, comparison.LaneDone):
                    self.frames[event.lane.name] = event.frames
                yield event

        patch.setattr(comparison, "run_job", noted)
        patch.setenv("MODEL_ID", str(folder))
        made = layouts.LAYOUTS[layout]
        size = {"height": made.height, "width": made.width, "frames": made.frames}
        ask = make_request(prompt="a cat", methods=["control"], nfe=4, steps=STEPS, seed=3, **size)
        for event in ComparisonService().run(plan_request(ask)):
            if isinstance(event, Done):
                self.code = event.snippets
                self.report = load_report(event.folder / "report.json")


# LTX-Video 0.9.1 takes settings of its decoder, which no step's record shows.
@pytest.fixture(scope="module", params=["wan", "ltx-0.9.1"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    # Models are kept by name for as long as the process lives.
    folder = layouts.save(request.param, tmp_path_factory.mktemp("space") / f"unlisted-{request.param}")
    with pytest.MonkeyPatch.context() as patch:
        made = Run(folder, request.param, patch)
    with pytest.MonkeyPatch.context() as patch:
        # A report names the folder, but not where it is.
        patch.chdir(folder.parent)
        yield made


def test_every_lane_comes_with_its_code(run: Run) -> None:
    assert list(run.code) == [lane.name for lane in run.report.lanes] == ["none", "fewer-steps", "control"]


@pytest.mark.parametrize("name", ["none", "fewer-steps", "control"])
def test_the_code_makes_the_lanes_video_again(run: Run, name: str) -> None:
    space: dict[str, Any] = {}
    exec(run.code[name], space)
    assert np.array_equal(to_uint8(space["video"]), run.frames[name])
    lane = next(lane for lane in run.report.lanes if lane.name == name)
    if name == "control":
        assert [r.score for r in space["trace"]] == [r.score for r in lane.trace]


def test_the_code_names_the_first_device_and_both_guidance_scales(run: Run) -> None:
    request = run.report.request.model_copy(update={"guidance_scale_2": 2.5})
    model = run.report.model.model_copy(update={"device": "cuda:0,cuda:1"})
    for code in snippets(run.report.model_copy(update={"request": request, "model": model}), {}).values():
        assert f"sencache.load({model.key!r}, 'cuda:0')" in code
        assert "guidance_scale_2=2.5," in code
