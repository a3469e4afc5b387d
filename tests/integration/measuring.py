"""Runs under a policy, and what is measured of them."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pipelines
import pytest
import torch
from pipelines import STEPS, Tiny

from sencache.calibration.recording import Recorder, Recording
from sencache.engine.attach import attach
from sencache.models.model import Model
from sencache.policies import Full, Policy
from sencache.policies.senses import ForecastError
from sencache.profiles.constants import ForecastTable, SamplerSchedule
from sencache.profiles.profile import Profile
from sencache.trace import StepRecord, Trace

NAMES = ("model_output", "timestep", "sample")
TARGETS = ("residual", "tail", "output", "delta")


def under(tiny: Tiny, policy: Policy, **changes: Any) -> tuple[torch.Tensor, Trace]:
    with attach(tiny.pipe, policy) as trace:
        return tiny(**changes), trace


def pattern(trace: Trace) -> str:
    return "".join("C" if record.decision == "compute" else "R" for record in trace)


def own_rms(difference: torch.Tensor) -> torch.Tensor:
    """Per sample, in double precision."""
    return difference.double().flatten(1).pow(2).mean(dim=1).sqrt()


def distances(tiny: Tiny, policy: Policy, **changes: Any) -> tuple[list[StepRecord], list[torch.Tensor]]:
    """The records, and what the network was given at every step, by a hook of our own on its input."""
    seen: dict[int, torch.Tensor] = {}

    def look(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        step = tiny.pipe.scheduler.timesteps.tolist().index(float(tiny.pipe.current_timestep))
        seen.setdefault(step, kwargs["hidden_states"].clone())

    handle = tiny.pipe.transformer.register_forward_pre_hook(look, with_kwargs=True)
    _, trace = under(tiny, policy, **changes)
    handle.remove()
    return trace.records, [seen[step] for step in sorted(seen)]


def check_distances(records: list[StepRecord], latents: list[torch.Tensor]) -> None:
    checked = 0
    for record in records:
        if "dx_rms" in record.signals:
            moved = latents[record.step] - latents[record.reference_step or 0]
            assert record.signals["dx_rms"] == pytest.approx(own_rms(moved).max().item(), rel=1e-4)
            assert record.signals["dt"] == pytest.approx(
                records[record.reference_step or 0].timestep - record.timestep
            )
            checked += 1
    assert checked > STEPS / 2


def size(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).pow(2).mean(dim=1).sqrt()


def calibrated(tiny: Tiny, **changes: Any) -> Profile:
    """The made-up profile with a forecast table of one plain run."""
    recorder = Recorder(None, {(ForecastError, "prediction")})
    with attach(tiny.pipe, Full(), observer=recorder):
        tiny(**changes)
    return with_table(tiny, recorder.recording())


def with_table(tiny: Tiny, recording: Recording) -> Profile:
    products, steps = recording.tables["predictions"], len(recording.timesteps)
    rows = (products / products.diagonal().mean()).tolist()
    schedule = SamplerSchedule(scheduler="own", steps=steps, timesteps=recording.timesteps)
    table = ForecastTable.model_validate(
        {"table": rows, "target": "prediction", "samples": 1, "lambda": 1e-3}, strict=False
    )
    return pipelines.profile(tiny.name, steps).model_copy(update={"schedule": schedule, "forecast": table})


class Sampled:
    """Every call that reaches the pipeline's own `scheduler.step`, in order."""

    def __init__(self, tiny: Tiny | Model) -> None:
        self.calls: list[tuple[float, torch.Tensor, torch.Tensor]] = []
        self.scheduler = tiny.pipe.scheduler
        own = self.scheduler.step

        @functools.wraps(own)
        def step(*args: Any, **kwargs: Any) -> Any:
            return self._note(own, **kwargs, **dict(zip(NAMES, args, strict=False)))

        self.scheduler.step = step

    def _note(self, step: Any, **given: Any) -> Any:
        if not self.calls:
            self._fresh = copy.copy(self.scheduler)
            self._fresh.__dict__ = {k: copy.copy(v) for k, v in vars(self.scheduler).items() if k != "step"}
        self.calls.append((float(given["timestep"]), given["model_output"], given["sample"]))
        return step(**given)

    def afresh(self) -> torch.Tensor:
        """Where a fresh sampler ends with the prediction that each timestep was taken with last."""
        last = {t: prediction for t, prediction, _ in self.calls}
        latent = self.calls[0][2]
        for t in self._fresh.timesteps:
            latent = self._fresh.step(last[float(t)], t, latent, return_dict=False)[0].to(latent.dtype)
        return latent
