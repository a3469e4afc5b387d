"""A model's own trajectories -> a profile, with one extra evaluation per step.

While a plain generation runs, every step after the first evaluates the network once more, at the new latent
and the old timestep: `g = f(x_{k+1}, t_k)`. It splits the change of the network into the part due to x and
the part due to t: `alpha_x(t_k) = |g - f_k| / |x_{k+1} - x_k|` and `alpha_t(t_k) = |f_{k+1} - g| / |t_{k+1} -
t_k|`, all norms RMS, so both are per latent element (SenCache, arXiv 2602.24208, section 4). The same runs
give MagCache's ratios (arXiv 2506.09045) and the points for TeaCache's polynomial (arXiv 2411.19108). The
latents stay those of a plain run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sencache.budget import match_nfe
from sencache.constants import (
    Calibration,
    MagnitudeRatios,
    ModelId,
    Provenance,
    SamplerSchedule,
    SensitivityTable,
    Shape,
    TeaCacheFit,
)
from sencache.engine.architectures import architecture_of
from sencache.engine.attach import attach
from sencache.engine.sensors import Scene, relative_l1, rms
from sencache.errors import SencacheError
from sencache.models import Model
from sencache.policies import METHODS, Fixed, Full, Policy, make_policy, uses_profile
from sencache.profile import Profile
from sencache.recording import Recorder, Recording, simulate
from sencache.schema import Request
from sencache.versions import versions

# Shares of the full run's evaluations; those of the two settings that the SenCache paper reports.
PRESETS = {"slow": 0.50, "fast": 0.42}
DEGREE = 4


class Probe(Recorder):
    """Records a run, and evaluates every new latent at the old timestep as well."""

    def __init__(self, signal: str | None, on_step: Callable[[], object] = lambda: None) -> None:
        super().__init__(signal)
        self.crossed: list[torch.Tensor] = []
        self.on_step = on_step

    def observe(self, scene: Scene) -> None:
        """Keep the step; from the second on, also `f(x_{k+1}, t_k)` of the prompt's own samples."""
        assert scene.rerun is not None
        if self.recording.timesteps:
            self.crossed.append(scene.rerun(self.recording.timesteps[-1])[scene.conditional])
        super().observe(scene)
        self.on_step()


def probe(pipe: Any, call: Callable[[], object], on_step: Callable[[], object] = lambda: None) -> Probe:
    """Watch one generation: `call()` calls `pipe`. Raises SencacheError when the scheduler repeats a
    timestep.
    """
    observer = Probe(architecture_of(pipe.transformer).default_signal, on_step)
    with attach(pipe, Full(), observer=observer):
        call()
    timesteps = observer.recording.timesteps
    if len(timesteps) < 2 or len(set(timesteps)) < len(timesteps):
        raise SencacheError(
            f"calibration needs at least two steps at distinct timesteps, and the scheduler gave "
            f"{len(timesteps)} "
            f"of which {len(set(timesteps))} are distinct; use another scheduler or more steps"
        )
    return observer


def sensitivity(probes: Sequence[Probe]) -> SensitivityTable:
    """alpha_x and alpha_t of the network's output per step but the last: mean and spread over the samples."""
    pairs = torch.stack([_alphas(p) for p in probes])
    mean, spread = pairs.mean(dim=0), pairs.std(dim=0, correction=0)
    return SensitivityTable(
        alpha_x=_numbers(mean[:, 0]),
        alpha_t=_numbers(mean[:, 1]),
        alpha_x_std=_numbers(spread[:, 0]),
        alpha_t_std=_numbers(spread[:, 1]),
        samples=len(probes),
        target="output",
    )


def _alphas(observed: Probe) -> torch.Tensor:
    """[steps - 1, 2], float64."""
    run, rows = observed.recording, []
    for k, crossed in enumerate(observed.crossed):
        moved_x = rms(run.latents[k + 1] - run.latents[k])
        moved_t = abs(run.timesteps[k + 1] - run.timesteps[k])
        alpha_x = (rms(crossed - run.outputs[k]) / moved_x.clamp_min(1e-12)).mean()
        alpha_t = rms(run.outputs[k + 1] - crossed).mean() / moved_t
        rows.append(torch.stack([alpha_x, alpha_t]).double().cpu())
    return torch.stack(rows)


def _numbers(values: torch.Tensor) -> tuple[float, ...]:
    # Six digits are far beyond the spread over samples.
    return tuple(float(f"{value:.6g}") for value in values.tolist())


def magnitude_ratios(recordings: Sequence[Recording]) -> MagnitudeRatios:
    """Per step the mean over tokens of the residual's norm over the step before's, averaged; 1 for the first
    step.
    """
    ratios = torch.stack([_ratios(recording) for recording in recordings]).mean(dim=0)
    return MagnitudeRatios(ratios=(1.0, *(round(value, 5) for value in ratios.tolist())))


def _ratios(recording: Recording) -> torch.Tensor:
    norms = [torch.linalg.vector_norm(r, dim=-1, dtype=torch.float32) for r in recording.residuals]
    steps = zip(norms[1:], norms, strict=False)
    return torch.stack([(now / before.clamp_min(1e-8)).mean() for now, before in steps]).double().cpu()


def teacache_fit(recordings: Sequence[Recording], signal: str) -> TeaCacheFit:
    """Least squares of degree 4: relative L1 change of the output over that of the signal, all steps of all
    samples.
    """
    points = [_changes(recording) for recording in recordings]
    x, y = (np.concatenate([pair[i] for pair in points]) for i in (0, 1))
    degree = min(DEGREE, len(np.unique(x)) - 1)
    coefficients = np.polyfit(x, y, degree)
    return TeaCacheFit(coefficients=tuple(float(c) for c in coefficients), signal=signal)


def _changes(recording: Recording) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    def change(tensors: Sequence[torch.Tensor]) -> np.ndarray[Any, Any]:
        steps = zip(tensors[1:], tensors, strict=False)
        return np.array([float(relative_l1(now, before).mean()) for now, before in steps])

    signals = [signal for signal in recording.signals if signal is not None]
    return change(signals), change(recording.outputs)


def presets(profile: Profile, recordings: Sequence[Recording]) -> dict[str, dict[str, dict[str, Any]]]:
    """For every caching method the settings that meet each preset's share of the evaluations, on average."""
    steps = profile.schedule.steps
    methods = [name for name, cls in METHODS.items() if cls.caches]
    return {
        preset: {method: _preset(method, profile, recordings, round(share * steps)) for method in methods}
        for preset, share in PRESETS.items()
    }


def _preset(method: str, profile: Profile, recordings: Sequence[Recording], nfe: int) -> dict[str, Any]:
    plain = make_policy(method, {}, profile if uses_profile(method) else None)
    matched = (
        _regular(plain, recordings[0], nfe) if isinstance(plain, Fixed) else match_nfe(plain, recordings, nfe)
    )
    return {name: value for name, value in matched.config().items() if value != plain.config()[name]}


def _regular(plain: Fixed, recording: Recording, nfe: int) -> Policy:
    """A pattern rather than a list of steps, so that the preset serves any number of steps."""
    steps = len(recording.timesteps)
    patterns = [
        replace(plain, interval=interval, forced_first=first)
        for first in range(1, steps + 1)
        for interval in range(1, steps + 1)
        if abs(first + (steps - first) // interval - nfe) <= 1
    ]
    return min(patterns, key=lambda pattern: abs(simulate(pattern, recording).nfe - nfe), default=plain)


def calibrate(
    model: Model,
    request: Request,
    prompts: Sequence[str],
    samples: int = 8,
    on_step: Callable[[], object] = lambda: None,
) -> Profile:
    """A profile of `model` on the schedule, size and guidance of `request`, from `samples` videos.

    Prompts are taken in turn, seeds count up from `request.seed`; `on_step` is called after every step. Costs
    one extra evaluation per step and nothing else.
    """
    began = time.perf_counter()
    probes = []
    for index in range(samples):
        prompt, seed = prompts[index % len(prompts)], request.seed + index
        encoded = model.encode(prompt, request.negative_prompt, request.guidance_scale)
        asked = request.model_copy(update={"prompt": prompt, "seed": seed})
        call = partial(model.generate, model.pipe, encoded, asked, output_type="latent")
        probes.append(probe(model.pipe, call, on_step))
    used = tuple(dict.fromkeys(prompts[: min(samples, len(prompts))]))
    seeds = tuple(request.seed + index for index in range(samples))
    record = Calibration(
        prompts=used,
        seeds=seeds,
        date=date.today().isoformat(),
        versions=versions(),
        seconds=round(time.perf_counter() - began, 3),
    )
    return _profile(model, request, probes, record)


def _profile(model: Model, request: Request, probes: Sequence[Probe], calibration: Calibration) -> Profile:
    recordings = [p.recording for p in probes]
    first, info = recordings[0], model.info()
    latent = tuple(first.latents[0].shape[1:])
    signal = architecture_of(model.pipe.transformer).default_signal
    schedule, scheduler = first.schedule, model.pipe.scheduler
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    profile = Profile(
        schema_="sencache.profile/1",
        model=ModelId(id=info.id, revision=info.revision, architecture=model.spec.architecture),
        schedule=SamplerSchedule(
            scheduler=type(scheduler).__name__,
            config=config,
            steps=len(schedule),
            timesteps=schedule.timesteps,
            sigmas=schedule.sigmas,
        ),
        shape=Shape(
            height=request.height,
            width=request.width,
            frames=request.frames,
            latent=latent,
            elements=int(np.prod(latent)),
        ),
        guidance_scale=request.guidance_scale,
        dtype=info.dtype,
        sensitivity=sensitivity(probes),
        magcache=magnitude_ratios(recordings),
        teacache=teacache_fit(recordings, signal) if signal else None,
        calibration=calibration,
        provenance=Provenance(kind="measured", source="sencache calibrate", licence="apache-2.0"),
    )
    return profile.model_copy(update={"presets": presets(profile, recordings)})


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts in a text file, one a line; raises SencacheError when it cannot be read or holds none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SencacheError(
            f"cannot read prompts from {path} ({error}); give a text file, one prompt a line"
        ) from None
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise SencacheError(f"{path} holds no prompts; write one a line")
    return prompts
