"""On ZeroGPU a comparison is one call of a forked worker: reserved once, paid by the visitor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sencache.app.pages.api import as_dict
from sencache.app.request import make_request, plan_request
from sencache.app.service import ComparisonService

SMALL = {"nfe": 4, "steps": 8, "height": 32, "width": 32, "frames": 5}
ASKED = {"prompt": "a red circle", "methods": ["sencache", "control"], **SMALL}
SCRIPT = Path(__file__).parent / "zerogpu_app.py"


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the process under a fake ZeroGPU told of its runs and of the calls it made."""
    # A fork must not inherit another thread's half-held OpenMP pool.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(SCRIPT), json.dumps(ASKED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def calls(told: dict[str, Any], name: str) -> list[dict[str, str]]:
    return [call for call in told["calls"] if call["call"] == name]


def test_every_comparison_is_one_reservation_that_the_visitor_pays(told: dict[str, Any]) -> None:
    """In a worker of its own, for as long as was estimated."""
    # The failing one, two whole ones, the closed one, one after it.
    assert len(calls(told, "schedule")) == len(calls(told, "release")) == 5
    assert {call["allowToken"] for call in calls(told, "release")} == {f"token-{n}" for n in range(1, 6)}
    scheduled = calls(told, "schedule")
    assert {call.get("token") for call in scheduled} == {"header.eyJ1c2VyIjogIngifQ.signature"}
    assert float(scheduled[0]["durationSeconds"]) >= told["reserved"] > 0
    pids = {int(call["pid"]) for call in calls(told, "allow")}
    assert pids and told["parent"] not in pids


def test_closing_frees_the_worker_and_an_error_inside_crosses_as_its_sentence(told: dict[str, Any]) -> None:
    assert "not enough memory" in told["error"]
    assert told["free"] is True and told["again"] == 1


def test_a_killed_worker_leaves_the_lanes_that_had_ended(told: dict[str, Any]) -> None:
    """As when ZeroGPU takes its GPU back; the next visitor gets a worker of their own."""
    killed = told["killed"]
    assert killed["problems"] == [] and "none" in killed["lanes"]
    assert len(killed["lanes"]) + len(killed["missing"]) == 4 and killed["missing"]
    assert all("the process that made it was ended (GPU task aborted)" in one for one in killed["missing"])
    assert told["after"] == 1


def test_blocks_are_compiled_in_a_worker_when_the_space_starts(told: dict[str, Any]) -> None:
    """With the time that only a start may take; strides and types come back through the pipe."""
    aot = told["aot"]
    assert aot["worker"] != aot["parent"] and aot["folder"] and aot["more"] == 0
    assert aot["layout"] == "(((2, 3), (3, 1), torch.float32, 'cpu'), None)"
    (scheduled,) = [call for call in aot["calls"] if call["call"] == "schedule"]
    assert float(scheduled["durationSeconds"]) >= 1500


# The worker has one thread, and two add up a sum's last digit in another order.
@pytest.mark.usefixtures("one_thread")
def test_decisions_and_metrics_are_those_of_a_plain_process(told: dict[str, Any]) -> None:
    job = plan_request(make_request(**ASKED))
    events = (as_dict(event) for event in ComparisonService().run(job))
    here = [event for event in events if event["kind"] in ("step", "lane_done")]
    first, second = told["runs"]
    assert len(here) == len(first) == len(second)
    for events in (first, second):
        for event, expected in zip(events, json.loads(json.dumps(here)), strict=True):
            assert _lasting(event) == _lasting(expected)


def _lasting(event: dict[str, Any]) -> Any:
    """Without what is a matter of seconds."""
    if event["kind"] == "step":
        return {key: value for key, value in event["record"].items() if key != "seconds"}
    return event["result"]["nfe"], event["result"]["metrics"], event["result"]["config"]
