"""One click on Run: planned once, and a step takes a short way from the pipeline's callback to the page."""

from __future__ import annotations

import queue
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import gradio as gr
import greenlet
import pytest

import sencache
from sencache.app import service as app
from sencache.app import shelf, space
from sencache.app.offer import describe
from sencache.app.pages.compare import Runner
from sencache.app.pages.controls import Controls, build_controls
from sencache.comparison import lanes, plan, stepping

PACKAGE = str(Path(sencache.__file__).parent)
# Of the package, between the callback's switch and the page, before there were jobs: 13 and 6.
FRAMES_BEFORE = 19
SMALL = {"steps": 4, "height": 32, "width": 32, "frames": 5}
WIDTH = 12


@pytest.fixture(scope="module")
def controls() -> Iterator[Controls]:
    with gr.Blocks(analytics_enabled=False):
        yield build_controls(describe())


def values(controls: Controls) -> list[Any]:
    """Of a small run, as the page hands them over."""
    usual = dict(zip(controls.names, (field.value for field in controls.inputs), strict=True))
    return [*{**usual, **SMALL, "methods": ["sencache", "control"]}.values(), {}]


def test_one_click_plans_once(controls: Controls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note beside Run, the check before the queue and the run, in a service that planned nothing yet."""
    calls: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: (calls.update([name]), whole(*given))[1])

    for name in ("plan_lane", "make_policy", "check_offer"):
        count(plan, name)
    for module, name in ((shelf, "own_profile"), (space, "plan_lane"), (app, "plan_request")):
        count(module, name)
    runner, given = Runner(app.ComparisonService(), controls, WIDTH), values(controls)
    assert not runner.announce(*given)["bad"]
    assert all(one["is_valid"] for one in runner.validate(*given))
    *_, last = runner.run(*given)
    assert str(last[0]["text"]).startswith("Done in")
    # The full run, fewer-steps and two lanes, of which each but the baselines needs a policy made.
    assert calls == {"plan_request": 1, "own_profile": 1, "plan_lane": 4, "make_policy": 2, "check_offer": 2}


def own_frames(frame: FrameType | None) -> list[str]:
    """The package's own functions on the stack of `frame`, innermost first."""
    found = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            found.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return found


def test_a_step_takes_a_short_way_to_the_page(controls: Controls, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where its callback switches to, to the thread's end, and from where that is read to the page."""
    seen: dict[str, list[str]] = {}

    class Noted(queue.Queue[Any]):
        def get(self, *given: Any, **more: Any) -> Any:
            seen.setdefault("page", own_frames(sys._getframe(1)))
            return super().get(*given, **more)

    made = lanes.Stepped

    def stepped(*given: Any) -> Any:
        parent = greenlet.getcurrent().parent
        assert parent is not None
        seen.setdefault("thread", own_frames(parent.gr_frame))
        return made(*given)

    monkeypatch.setattr(stepping, "queue", SimpleNamespace(Queue=Noted, Empty=queue.Empty, Full=queue.Full))
    monkeypatch.setattr(lanes, "Stepped", stepped)
    for _ in Runner(app.ComparisonService(), controls, WIDTH).run(*values(controls)):
        pass
    assert seen["page"][-1] == "Runner.run" and seen["thread"][0] == "Stepwise.__next__"
    assert len(seen["page"]) + len(seen["thread"]) <= FRAMES_BEFORE // 2, seen
