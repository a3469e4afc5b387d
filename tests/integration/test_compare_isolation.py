"""Comparisons at once or cut short: none leaves a trace in another, in the model or in the package."""

from __future__ import annotations

import copy
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import calls_under_way, outcome, request_of
from diffusers import UniPCMultistepScheduler

import sencache
from sencache.comparison.compare import compare
from sencache.comparison.plan import parse_lanes
from sencache.models.model import Model
from sencache.profiles.profile import Profile

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- at once


def test_comparisons_in_two_threads_do_not_disturb_each_other(bundled_profile: Profile) -> None:
    jobs = [
        (sencache.load("tiny-wan"), request_of(8), parse_lanes("sencache:tolerance=0.6,control")),
        (sencache.load("tiny-wan"), request_of(8, seed=1, guidance_scale=1), parse_lanes("magcache,fixed")),
    ]
    start = Barrier(2)

    def run(job: Any) -> dict[str, Any]:
        return outcome(list(compare(*job, bundled_profile)))

    def run_at_once(job: Any) -> dict[str, Any]:
        start.wait(timeout=30)
        return run(job)

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        alone, together = list(one.map(run, jobs)), list(two.map(run_at_once, jobs))
    assert together == alone


# ---- ended early


def plain_latent(model: Model) -> Any:
    request = request_of(3)
    encoded = model.encode(request.prompt, "", request.guidance_scale)
    return model.latent(model.pipe, encoded, request)


def attachments(model: Model) -> Any:
    """Every place in which the engine or a lane could have left something."""
    module = model.pipe.transformer
    return {
        name: list(value.items()) if isinstance(value, dict) else value
        for name, value in module.__dict__.items()
        if name.startswith("_")
    }


@pytest.fixture
def unharmed(tiny_wan: Model) -> Iterator[Model]:
    """A model that must be the same after the test: attributes, hooks, and what it makes."""
    latent = plain_latent(tiny_wan)  # first: diffusers itself adds something when a pipeline is first called
    before = attachments(tiny_wan)
    yield tiny_wan
    assert attachments(tiny_wan) == before
    assert np.array_equal(plain_latent(tiny_wan), latent)
    assert torch.is_grad_enabled()


def test_closing_the_stream_leaves_the_model_as_it_was(unharmed: Model, bundled_profile: Profile) -> None:
    """At the start, where lanes start, after the first step, within a round, after a lane."""
    for taken in (1, 2, 6, 14, 22):
        stream = compare(unharmed, request_of(4), parse_lanes("sencache,fixed,control"), bundled_profile)
        for _ in range(taken):
            next(stream)
        if taken == 6:
            with pytest.raises(KeyboardInterrupt):
                stream.throw(KeyboardInterrupt())
        stream.close()
        assert list(stream) == []


def test_a_failing_step_ends_all_lanes(unharmed: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = UniPCMultistepScheduler.step, iter(range(100))

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == 5:
            raise MemoryError("no memory left")
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(UniPCMultistepScheduler, "step", fail)
        under_way = calls_under_way(patched, unharmed)
        with pytest.raises(MemoryError, match="no memory left") as caught:
            list(compare(unharmed, request_of(4), parse_lanes("fixed,control"), None))
    # The traceback keeps every frame alive, so whatever has ended was ended on purpose.
    assert caught.tb is not None and under_way == []


def test_a_comparison_changes_nothing_at_module_level(tiny_wan: Model, bundled_profile: Profile) -> None:
    for module in pkgutil.walk_packages(sencache.__path__, "sencache."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    before = module_level()
    list(compare(tiny_wan, request_of(3, nfe=2), parse_lanes("sencache,teacache,control"), bundled_profile))
    assert module_level() == before


def module_level() -> dict[str, Any]:
    """Copies of all containers that the modules of the package hold."""
    return {
        f"{module}.{name}": copy.copy(value)
        for module in sorted(sys.modules)
        if module.split(".")[0] == "sencache"
        for name, value in vars(sys.modules[module]).items()
        if isinstance(value, (dict, list, set)) and not name.startswith("__")
    }
