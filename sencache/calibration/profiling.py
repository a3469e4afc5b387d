"""A model's own videos -> a profile that serves SenCache, MagCache and TeaCache.

The same runs give the sensitivities (arXiv 2602.24208, section 4), MagCache's ratios (arXiv 2506.09045) and
the points for TeaCache's polynomial (arXiv 2411.19108), and on them the settings are found that meet a
budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from sencache.architectures import architecture_of
from sencache.calibration.budget import match_nfe
from sencache.calibration.recording import Array, Recording, simulate
from sencache.calibration.samples import Sample, Task, measured
from sencache.calibration.sensitivity import Measured
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.policies import METHODS, Fixed, Policy, make_policy, uses_profile
from sencache.profiles.constants import (
    MAX_GRAM_STEPS,
    Calibration,
    ForecastTable,
    MagnitudeRatios,
    ModelId,
    NfeSpread,
    Provenance,
    SamplerSchedule,
    SensitivityTable,
    Shape,
    TeaCacheFit,
)
from sencache.profiles.profile import Profile
from sencache.schema import Request
from sencache.versions import versions

# Shares of the full run's evaluations; those of the two settings that the SenCache paper reports.
PRESETS = {"slow": 0.50, "fast": 0.42}
DEGREE = 4
# Of the weights of fitted forecasts, relative to the diagonal.
RIDGE = 1e-3


@dataclass(frozen=True)
class CalibrationPlan:
    """What to calibrate on: `samples` videos of the request's size, prompts and clips in turn, seeds counting
    up from the request's.

    `target`: whose sensitivity is measured, the network's `output` (as published) or the block stack's
    `residual`. `clips`: real videos, and with them the paper's way of measuring; without, the model's own
    trajectories.
    """

    model: Model
    request: Request
    prompts: Sequence[str]
    samples: int = 8
    target: Measured = "output"
    clips: Sequence[Path] = ()

    @property
    def tasks(self) -> list[Task]:
        """One a video."""
        return [self._task(index) for index in range(self.samples)]

    def _task(self, index: int) -> Task:
        prompt = self.prompts[index % len(self.prompts)]
        asked = {"prompt": prompt, "seed": self.request.seed + index}
        clip = self.clips[index % len(self.clips)] if self.clips else None
        return Task(self.model, self.request.model_copy(update=asked), self.target, clip)

    @property
    def steps(self) -> int:
        """Sampler steps in all."""
        return sum(task.runs * task.request.steps for task in self.tasks)


def calibrate(
    plan: CalibrationPlan, keep: Path | None = None, on_step: Callable[[], object] = lambda: None
) -> Profile:
    """The profile measured as `plan` says; `on_step` is called after every step.

    Results of single videos are kept in the folder `keep`, and what is there already is not made again. Costs
    one extra evaluation per step; with clips one more run of three per step. Raises SencacheError for
    schedules that cannot be calibrated and clips that cannot be used.
    """
    samples = [measured(task, keep, on_step) for task in plan.tasks]
    profile = _profile(plan, samples)
    recordings = [sample.recording for sample in samples]
    found = presets(profile, recordings)
    spread = {name: _spreads(profile, methods, recordings) for name, methods in found.items()}
    return profile.model_copy(update={"presets": found, "preset_nfe": spread})


def sensitivity(samples: Sequence[Sample], target: Measured = "output") -> SensitivityTable:
    """alpha_x and alpha_t per step but the last: mean and spread (standard deviation) over the samples."""
    pairs = np.stack([sample.alphas for sample in samples])
    mean, spread = pairs.mean(axis=0), pairs.std(axis=0)
    return SensitivityTable(
        alpha_x=_numbers(mean[:, 0]),
        alpha_t=_numbers(mean[:, 1]),
        alpha_x_std=_numbers(spread[:, 0]),
        alpha_t_std=_numbers(spread[:, 1]),
        samples=len(samples),
        target=target,
    )


def _numbers(values: Array, digits: int = 6) -> tuple[float, ...]:
    # Six digits are far beyond the spread over samples.
    return tuple(float(f"{value:.{digits}g}") for value in values)


def magnitude_ratios(samples: Sequence[Sample]) -> MagnitudeRatios:
    """MagCache's ratio per step, averaged over the samples; 1 for the first step, which follows none."""
    ratios = np.stack([sample.magnitudes[:, 0] for sample in samples]).mean(axis=0)
    return MagnitudeRatios(ratios=(1.0, *(round(float(ratio), 5) for ratio in ratios)))


def teacache_fit(samples: Sequence[Sample], signal: str) -> TeaCacheFit:
    """Least squares of degree 4: relative L1 change of the output over that of the signal, all steps of all
    samples; of a lower degree where the signal takes too few values.
    """
    x = np.concatenate([sample.recording.tables["signal_change"][1:] for sample in samples])
    y = np.concatenate([sample.magnitudes[:, 1] for sample in samples])
    coefficients = np.polyfit(x, y, min(DEGREE, len(np.unique(x)) - 1))
    return TeaCacheFit(
        coefficients=tuple(float(c) for c in coefficients),
        signal=signal,
        fitted_range=(float(x.min()), float(x.max())),
    )


def forecast_table(samples: Sequence[Sample]) -> ForecastTable | None:
    """Inner products of the guided predictions over the mean of their squared norms, averaged over the
    samples; None beyond the steps that a profile has room for.
    """
    tables = [sample.recording.tables["predictions"] for sample in samples]
    if len(tables[0]) > MAX_GRAM_STEPS:
        return None
    table = np.mean([own / own.diagonal().mean() for own in tables], axis=0)
    # Two more digits than elsewhere: what counts is small differences between these numbers.
    rows = tuple(_numbers(row, 8) for row in (table + table.T) / 2)
    return ForecastTable(table=rows, target="prediction", samples=len(samples), ridge=RIDGE)


def presets(profile: Profile, recordings: Sequence[Recording]) -> dict[str, dict[str, dict[str, Any]]]:
    """For every caching method the settings that meet each preset's share of the evaluations, on average."""
    steps = profile.schedule.steps
    serving = {name: cls for name, cls in METHODS.items() if cls.serves(profile.model.architecture)}
    methods = [name for name, cls in serving.items() if cls.caches]
    return {
        preset: {method: _preset(method, profile, recordings, round(share * steps)) for method in methods}
        for preset, share in PRESETS.items()
    }


def _policy(method: str, profile: Profile, given: dict[str, Any]) -> Policy:
    return make_policy(method, given, profile if uses_profile(method) else None)


def _preset(method: str, profile: Profile, recordings: Sequence[Recording], nfe: int) -> dict[str, Any]:
    plain = _policy(method, profile, {})
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


def _spreads(
    profile: Profile, settings: dict[str, dict[str, Any]], recordings: Sequence[Recording]
) -> dict[str, NfeSpread]:
    return {
        method: _spread([simulate(_policy(method, profile, given), run).nfe for run in recordings])
        for method, given in settings.items()
    }


def _spread(counts: Sequence[int]) -> NfeSpread:
    mean, std = (round(float(value), 3) for value in (np.mean(counts), np.std(counts)))
    return NfeSpread(mean=mean, std=std, min=min(counts), max=max(counts))


def _profile(plan: CalibrationPlan, samples: Sequence[Sample]) -> Profile:
    first, request, info = samples[0], plan.request, plan.model.info()
    signal = architecture_of(plan.model.pipe.transformer).default_signal
    return Profile(
        schema_="sencache.profile/1",
        model=ModelId(id=info.id, revision=info.revision, architecture=plan.model.spec.architecture),
        schedule=_schedule(plan.model.pipe.scheduler, first.recording),
        shape=Shape(
            height=request.height,
            width=request.width,
            frames=request.frames,
            latent=first.latent,
            elements=int(np.prod(first.latent)),
        ),
        guidance_scale=request.guidance_scale,
        dtype=info.dtype,
        sensitivity=sensitivity(samples, plan.target),
        magcache=magnitude_ratios(samples),
        teacache=teacache_fit(samples, signal) if signal else None,
        forecast=forecast_table(samples),
        calibration=_calibration(plan, samples),
        provenance=Provenance(kind="measured", source="sencache calibrate", licence="apache-2.0"),
    )


def _schedule(scheduler: Any, recording: Recording) -> SamplerSchedule:
    return SamplerSchedule(
        scheduler=type(scheduler).__name__,
        config={key: value for key, value in scheduler.config.items() if not key.startswith("_")},
        steps=len(recording.timesteps),
        timesteps=recording.timesteps,
        sigmas=recording.sigmas,
    )


def _calibration(plan: CalibrationPlan, samples: Sequence[Sample]) -> Calibration:
    requests = [task.request for task in plan.tasks]
    plain, extra = (sum(sample.evaluations[i] for sample in samples) for i in (0, 1))
    return Calibration(
        prompts=tuple(dict.fromkeys(request.prompt for request in requests)),
        seeds=tuple(request.seed for request in requests),
        date=date.today().isoformat(),
        versions=versions(),
        seconds=round(sum(sample.seconds for sample in samples), 3),
        method="paper" if plan.clips else "trajectory",
        clips=tuple(dict.fromkeys(clip.name for clip in plan.clips[: plan.samples])),
        cost=round((plain + extra) / plain, 3),
    )


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
