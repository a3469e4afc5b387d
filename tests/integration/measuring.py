"""Runs under a policy, and what is measured of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pipelines import STEPS, Tiny

from sencache.engine.attach import attach
from sencache.policies import Policy
from sencache.trace import StepRecord, Trace

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
