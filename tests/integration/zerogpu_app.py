"""Run by test_zerogpu.py as a process of its own: the service under a fake ZeroGPU, results as JSON.

torch without CUDA lacks what `spaces` patches, so `spaces` is imported as if there were no torch; its fork,
its pipes, its errors and its calls to the device API are the real ones.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

TOKEN = "header.eyJ1c2VyIjogIngifQ.signature"
calls: list[dict[str, Any]] = []
api = FastAPI()


@api.post("/{name}")
def answer(name: str, request: Request) -> Any:
    """Every call is noted; a schedule lends device 0, from the third on to the worker that had it."""
    calls.append({"call": name, **request.query_params})
    if name != "schedule":
        return {}
    scheduled = sum(call["call"] == "schedule" for call in calls)
    lent = {"nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": f"token-{scheduled}"}
    return {"idle": scheduled > 2, **lent}


def serve() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    return f"http://127.0.0.1:{port}"


def main() -> None:
    os.environ |= {"SPACES_ZERO_GPU": "1", "SPACES_ZERO_DEVICE_API_URL": serve()}
    sys.modules["torch"] = None  # type: ignore[assignment]
    import spaces  # noqa: F401

    del sys.modules["torch"]
    from gradio.context import LocalContext

    from sencache.app import service
    from sencache.app.events import Done
    from sencache.app.pages.api import as_dict
    from sencache.app.request import make_request
    from sencache.comparison.events import LaneDone, StepDone

    # Before the first fork: workers are used again.
    service.compile_blocks = layout_from_worker
    # However slow this machine is, what is reserved must not end a run.
    service.MARGIN_SECONDS = -1000.0
    # A visitor's, with the token that pays for the GPU.
    headers = Headers({"x-ip-token": TOKEN, "x-gradio-user": "app"})
    LocalContext.request.set(SimpleNamespace(headers=headers))  # type: ignore[arg-type]
    own = service.ComparisonService()
    job = own.job(make_request(**json.loads(sys.argv[1])))
    own.warm()
    told: dict[str, Any] = {"parent": os.getpid(), "reserved": own.estimate(job).reserved}
    told["error"] = error_inside(own, job)
    told["runs"] = [
        [as_dict(e) for e in own.run(job) if isinstance(e, (LaneDone, StepDone))] for _ in range(2)
    ]
    closed = own.run(job)
    next(e for e in closed if isinstance(e, StepDone))
    closed.close()
    told["free"] = own._device.acquire(timeout=60)
    own._device.release()
    told["again"] = len([e for e in own.run(job) if isinstance(e, Done)])

    told["calls"] = list(calls)
    told["killed"] = killed(own, job)
    told["after"] = len([e for e in own.run(job) if isinstance(e, Done)])
    told["aot"] = compiled_at_start(own)
    print(json.dumps(told))


def killed(own: Any, job: Any) -> dict[str, Any]:
    """What the visitor gets when the worker is killed three steps after the full run has ended."""
    from sencache.app.events import Done
    from sencache.comparison.events import StepDone
    from sencache.comparison.report import load_report
    from sencache.comparison.verify import verify

    left = 3
    for event in own.run(job):
        if isinstance(event, StepDone) and event.lane != "none":
            left -= 1
            if not left:
                for worker in multiprocessing.active_children():
                    worker.kill()
        if isinstance(event, Done):
            report = load_report(event.folder / "report.json")
            missing = [str(one) for one in report.unfinished]
            lanes = [lane.name for lane in report.lanes]
            return {"lanes": lanes, "problems": verify(report), "missing": missing}
    raise AssertionError("a run ends")


def layout_from_worker(*_: Any) -> Any:
    """In place of compiling: something like a layout, and where it was made."""
    import torch

    from sencache.app.aot import layout_of

    return os.getpid(), layout_of((torch.zeros(2, 3), None))


def compiled_at_start(own: Any) -> dict[str, Any]:
    """What a start with compiling ahead of time reserves, and what comes back from the worker."""
    from sencache.app import service

    loaded, before = [], len(calls)
    os.environ["SENCACHE_AOT"] = "1"
    service.load_blocks = lambda transformer, folder, layout: loaded.append((layout, folder.is_dir()))
    own.warm()
    ((pid, layout), there), *more = loaded
    told = {"parent": os.getpid(), "worker": pid, "layout": repr(layout), "folder": there, "more": len(more)}
    return told | {"calls": calls[before:]}


def error_inside(own: Any, job: Any) -> str:
    """What the visitor reads when memory runs out in the forked worker."""
    from sencache.comparison import compare as comparison
    from sencache.errors import SencacheError

    def failing(*_: Any) -> Any:
        raise MemoryError

    whole, comparison.run_job = comparison.run_job, failing
    try:
        list(own.run(job))
    except SencacheError as error:
        return str(error)
    finally:
        comparison.run_job = whole
    return "no error"


class Headers(dict[str, str]):
    """`spaces` takes only what has a `__dict__`, which a plain dict has not."""


if __name__ == "__main__":
    main()
