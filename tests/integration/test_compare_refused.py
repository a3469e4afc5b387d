"""What cannot be compared is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from comparisons import request_of, with_

from sencache.comparison.compare import compare
from sencache.comparison.plan import LaneSpec, parse_lanes
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.profiles.profile import Profile

pytestmark = pytest.mark.usefixtures("one_thread")


REFUSED = {
    "no profile": ("sencache", {}, None, "sencache needs a calibrated profile"),
    "setting out of range": ("control:tolerance=-1", {}, None, "control.tolerance is '-1'"),
    "step list too long": ("fixed:steps=0+4", {}, None, "fixed.steps names step 4"),
    "unknown preset": ("fixed", {"preset": "warp"}, None, "unknown preset 'warp'"),
    "no prompt": ("fixed", {"prompt": " "}, None, "the prompt is empty"),
    "budget above the steps": ("fixed", {"nfe": 5}, None, "a budget of 5"),
    "another architecture": ("sencache", {}, "ltx", "cannot serve a wan model"),
    "another architecture, unused": ("fixed", {}, "cogvideox", "cannot serve a wan model"),
}


@pytest.mark.parametrize(("typed", "changes", "architecture", "message"), REFUSED.values(), ids=REFUSED)
def test_a_comparison_is_refused_before_anything_runs(
    tiny_wan: Model,
    bundled_profile: Profile,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    changes: dict[str, Any],
    architecture: str | None,
    message: str,
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(tiny_wan, "generate", run)
    profile = None
    if architecture:
        model = bundled_profile.model.model_copy(update={"id": "other", "architecture": architecture})
        profile = bundled_profile.model_copy(update={"model": model})
    request = with_(request_of(4), **changes)
    with pytest.raises(SencacheError, match=message):
        next(compare(tiny_wan, request, parse_lanes(typed), profile))


def test_lanes_come_in_any_order_and_baselines_are_added(tiny_wan: Model) -> None:
    lanes = [LaneSpec("fixed", "fixed"), LaneSpec("none", "none")]
    report = list(compare(tiny_wan, request_of(3), lanes, None))[-1].report
    assert [lane.name for lane in report.lanes] == ["none", "fixed", "fewer-steps"]
