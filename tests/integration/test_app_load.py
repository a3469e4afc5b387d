"""Many clients at once on a small queue: each ends well or is told that the queue is full."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.client import Job

from sencache.app.pages import page
from sencache.app.service import ComparisonService
from sencache.comparison.report import Report
from sencache.comparison.stepping import THREAD_NAME
from sencache.comparison.verify import verify
from sencache.policies.loading import parse_profile

CLIENTS, WAITING, PATIENCE = 10, 4, 120
SMALL = {"nfe": 2, "steps": 4, "height": 32, "width": 32, "frames": 5}
ASKED: dict[str, Any] = {"prompt": "a red circle", "methods": ["sencache"], **SMALL, "api_name": "/compare"}


@pytest.fixture(scope="module")
def app() -> Iterator[tuple[str, ComparisonService]]:
    """The whole app with a queue that a few clients fill."""
    with pytest.MonkeyPatch.context() as patch:
        service = ComparisonService()
        patch.setattr(page, "MAX_WAITING", WAITING)
        patch.setattr(page, "ComparisonService", lambda: service)
        built = page.build_app()
        _, url, _ = built.launch(
            server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **page.launch_options()
        )
        yield url, service
        built.close()


def client(url: str) -> Client:
    return Client(url, verbose=False, download_files=False)


def ended(job: Job) -> Any:
    """The job's last event, or its error; a refused job must not be iterated, it would wait for ever."""
    until = time.monotonic() + PATIENCE
    while not job.done():
        assert time.monotonic() < until
        time.sleep(0.05)
    return job.exception() or job.outputs()[-1]


def lasting(report: Report) -> Any:
    """Decisions and metrics, which do not depend on the clock."""
    traces = [[(r.decision, r.reason, r.score, r.drift) for r in lane.trace] for lane in report.lanes]
    return traces, [lane.metrics for lane in report.lanes]


def test_many_clients_at_once(app: tuple[str, ComparisonService]) -> None:
    url, _ = app
    first = Report.model_validate_json(client(url).predict(**ASKED)["report"])
    clients = [client(url) for _ in range(CLIENTS)]
    jobs = [c.submit(**ASKED) for c in clients]
    results = [ended(job) for job in jobs]
    reports = [Report.model_validate_json(r["report"]) for r in results if isinstance(r, dict)]
    refused = [r for r in results if isinstance(r, Exception)]
    assert len(reports) + len(refused) == CLIENTS
    assert len(reports) > WAITING and refused
    assert all("queue" in str(error).lower() and "full" in str(error).lower() for error in refused)
    later = Report.model_validate_json(client(url).predict(**ASKED)["report"])
    for report in (*reports, later):
        assert verify(report) == []
        assert lasting(report) == lasting(first)


def test_a_client_that_goes_away_frees_the_device(app: tuple[str, ComparisonService]) -> None:
    url, service = app
    job = client(url).submit(**{**ASKED, "steps": 400, "nfe": None})
    until = time.monotonic() + PATIENCE
    while not any(event["kind"] == "step" for event in job.outputs()):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not service._device.acquire(blocking=False)
    job.cancel()
    assert service._device.acquire(timeout=PATIENCE)
    service._device.release()
    # The thread gives the device back just before it ends.
    while THREAD_NAME in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_is_wrong_is_told_to_the_client(app: tuple[str, ComparisonService]) -> None:
    with pytest.raises(Exception, match="unknown method 'nope'"):
        client(app[0]).predict(**{**ASKED, "methods": ["nope"]})


def test_only_the_named_endpoints_are_public_and_profiles_are_given_whole(
    app: tuple[str, ComparisonService],
) -> None:
    reader = client(app[0])
    told = reader.view_api(return_format="dict")
    assert set(told["named_endpoints"]) == {"/compare", "/profiles", "/profile"}
    assert told["unnamed_endpoints"] == {}
    listed = reader.predict(api_name="/profiles")
    for entry in (listed[0], listed[-1]):
        given = reader.predict(entry["name"], api_name="/profile")
        assert parse_profile(json.dumps(given)).model.id == entry["model"]


def test_the_documented_example_runs(
    app: tuple[str, ComparisonService], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    space: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:7860", app[0]), space)
    lanes = ["none", "fewer-steps", "sencache", "sencache:repair=replay", "control"]
    assert [lane["name"] for lane in space["report"]["lanes"]] == lanes
    assert "0 compute first_step" in capsys.readouterr().out
