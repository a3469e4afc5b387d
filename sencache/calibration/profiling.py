"""A model's own videos -> a profile that serves SenCache, MagCache and TeaCache.

The same runs give the sensitivities (arXiv 2602.24208, section 4), MagCache's ratios (arXiv 2506.09045) and
the points for TeaCache's polynomial (arXiv 2411.19108), and on them the settings are found that meet a
budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np

from sencache.architectures import architecture_of
from sencache.calibration.budget import match_nfe
from sencache.calibration.recording import Array, Recording, simulate
from sencache.calibration.samples import Sample, Task, sample_of
from sencache.calibration.sensitivity import Measured
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.policies import METHODS, Fixed, Policy, make_policy
from sencache.profiles import constants
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
        tasks = []
        for index, prompt in zip(range(self.samples), cycle(self.prompts), strict=False):
            asked = {"prompt": prompt, "seed": self.request.seed + index}
            clip = self.clips[index % len(self.clips)] if self.clips else None
            tasks.append(Task(self.model, self.request.model_copy(update=asked), self.target, clip))
        return tasks

    @property
    def steps(self) -> int:
        """Sampler steps in all."""
        return sum(task.steps for task in self.tasks)


def calibrate(
    plan: CalibrationPlan, keep: Path | None = None, on_step: Callable[[], object] = lambda: None
) -> Profile:
    """The profile measured as `plan` says; `on_step` is called after every step.

    Results of single videos are kept in the folder `keep`, and what is there already is not made again. Costs
    one extra evaluation per step; with clips one more run of three per step. Raises SencacheError for
    schedules that cannot be calibrated and clips that cannot be used.
    """
    samples = [sample_of(task, keep, on_step) for task in plan.tasks]
    profile = _profile(plan, samples)
    recordings = [sample.recording for sample in samples]
    presets: dict[str, dict[str, Any]] = {preset: {} for preset in PRESETS}
    spreads: dict[str, dict[str, Any]] = {preset: {} for preset in PRESETS}
    serving = (name for name, cls in METHODS.items() if cls.caches and cls.serves(profile.model.architecture))
    for name, (preset, share) in product(serving, PRESETS.items()):
        plain = make_policy(name, {}, profile)
        try:
            matched = _match_budget(plain, recordings, round(share * profile.schedule.steps))
        except SencacheError:
            # So few steps that the method computes more of them in any case; it gets no preset.
            continue
        settings = matched.config().items()
        presets[preset][name] = {key: value for key, value in settings if value != plain.config()[key]}
        spreads[preset][name] = _spread([simulate(matched, recording).nfe for recording in recordings])
    return profile.model_copy(update={"presets": presets, "preset_nfe": spreads})


def _match_budget(plain: Policy, recordings: Sequence[Recording], nfe: int) -> Policy:
    """With settings that meet the budget on average; `fixed` gets a pattern rather than a list of steps, so
    that the preset serves any number of steps.
    """
    if not isinstance(plain, Fixed):
        return match_nfe(plain, recordings, nfe)
    steps = len(recordings[0].timesteps)
    patterns = [
        replace(plain, interval=interval, forced_first=first)
        for first in range(1, steps + 1)
        for interval in range(1, steps + 1)
        if abs(first + (steps - first) // interval - nfe) <= 1
    ]
    off = lambda pattern: abs(simulate(pattern, recordings[0]).nfe - nfe)  # noqa: E731
    return min(patterns, key=off, default=plain)


def _spread(counts: Sequence[int]) -> constants.NfeSpread:
    mean, std = (round(float(value), 3) for value in (np.mean(counts), np.std(counts)))
    return constants.NfeSpread(mean=mean, std=std, min=min(counts), max=max(counts))


def sensitivity(samples: Sequence[Sample], target: Measured = "output") -> constants.SensitivityTable:
    """alpha_x and alpha_t per step but the last: mean and spread (standard deviation) over the samples."""
    pairs = np.stack([sample.alphas for sample in samples])
    mean, spread = pairs.mean(axis=0), pairs.std(axis=0)
    return constants.SensitivityTable(
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


def magnitude_ratios(samples: Sequence[Sample]) -> constants.MagnitudeRatios:
    """MagCache's ratio per step, averaged over the samples; 1 for the first step, which follows none."""
    ratios = np.stack([sample.magnitudes[:, 0] for sample in samples]).mean(axis=0)
    return constants.MagnitudeRatios(ratios=(1.0, *(round(float(ratio), 5) for ratio in ratios)))


def teacache_fit(samples: Sequence[Sample], signal: str) -> constants.TeaCacheFit:
    """Least squares of degree 4: relative L1 change of the output over that of the signal, all steps of all
    samples; of a lower degree where the signal takes too few values.
    """
    x = np.concatenate([sample.recording.tables["signal_change"][1:] for sample in samples])
    y = np.concatenate([sample.magnitudes[:, 1] for sample in samples])
    coefficients = np.polyfit(x, y, min(DEGREE, len(np.unique(x)) - 1))
    return constants.TeaCacheFit(
        coefficients=tuple(float(c) for c in coefficients),
        signal=signal,
        fitted_range=(float(x.min()), float(x.max())),
    )


def forecast_table(samples: Sequence[Sample]) -> constants.ForecastTable | None:
    """Inner products of the guided predictions over the mean of their squared norms, averaged over the
    samples; None beyond the steps that a profile has room for.
    """
    tables = [sample.recording.tables["predictions"] for sample in samples]
    if len(tables[0]) > constants.MAX_GRAM_STEPS:
        return None
    table = np.mean([own / own.diagonal().mean() for own in tables], axis=0)
    # Two more digits than elsewhere: what counts is small differences between these numbers.
    rows = tuple(_numbers(row, 8) for row in (table + table.T) / 2)
    return constants.ForecastTable(table=rows, target="prediction", samples=len(samples), ridge=RIDGE)


def _profile(plan: CalibrationPlan, samples: Sequence[Sample]) -> Profile:
    first, request, info = samples[0], plan.request, plan.model.info()
    scheduler = plan.model.pipe.scheduler
    signal = architecture_of(plan.model.pipe.transformer).default_signal
    return Profile(
        schema_="sencache.profile/1",
        model=constants.ModelId(
            id=info.id, revision=info.revision, architecture=plan.model.spec.architecture
        ),
        schedule=constants.SamplerSchedule(
            scheduler=type(scheduler).__name__,
            config={key: value for key, value in scheduler.config.items() if not key.startswith("_")},
            steps=len(first.recording.timesteps),
            timesteps=first.recording.timesteps,
            sigmas=first.recording.sigmas,
        ),
        shape=constants.Shape(
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
        provenance=constants.Provenance(kind="measured", source="sencache calibrate", licence="apache-2.0"),
    )


def _calibration(plan: CalibrationPlan, samples: Sequence[Sample]) -> constants.Calibration:
    requests = [task.request for task in plan.tasks]
    plain, extra = (sum(sample.evaluations[i] for sample in samples) for i in (0, 1))
    return constants.Calibration(
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
