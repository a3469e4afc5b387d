"""What a profile says of itself in words: on the Hub, on the page, and in the file that `show` draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sencache.profiles.constants import Calibration, ForecastTable, SamplerSchedule, SensitivityTable, Shape
from sencache.profiles.profile import Profile

CLASSES = {"sencache": "SenCache", "magcache": "MagCache", "teacache": "TeaCache"}
# What the schedulers call the shift of their schedule.
SHIFTS = ("flow_shift", "shift", "mu", "snr_shift_scale")


def served(profile: Profile) -> list[str]:
    """The methods that the profile has constants for, by the names of their classes."""
    return [CLASSES[method] for method in profile.serves]


def facts(profile: Profile) -> list[tuple[str, str]]:
    """Labels and texts, of what is known; the texts come from others."""
    return [(label, text) for label, text in _facts(profile) if text]


def _facts(profile: Profile) -> Iterator[tuple[str, str]]:
    yield "Model", profile.model.id
    yield "Model revision", profile.model.revision or ""
    yield "Architecture", profile.model.architecture
    yield "Schedule", _schedule(profile.schedule)
    yield "Shape", _shape(profile.shape) if profile.shape else ""
    yield "Guidance", "" if profile.guidance_scale is None else f"{profile.guidance_scale:g}"
    yield "Precision", profile.dtype or ""
    yield "Presets", ", ".join(profile.presets)
    if profile.sensitivity:
        yield from _sensitivity(profile.sensitivity)
    if profile.teacache and profile.teacache.monotone is False:
        yield "TeaCache polynomial", "not monotone over the changes that it was fitted on"
    if profile.forecast:
        yield "Fitted forecasts", _expected_errors(profile.forecast)
    if profile.calibration:
        yield from _calibration(profile.calibration)
    yield "Provenance", f"{profile.provenance.kind}: {profile.provenance.source}"
    yield "Licence", profile.provenance.licence
    yield "sha256", profile.sha256


def _schedule(schedule: SamplerSchedule) -> str:
    given = ((name, schedule.config.get(name)) for name in SHIFTS)
    shifts = [f"{name}={value}" for name, value in given if isinstance(value, (int, float))]
    return ", ".join([schedule.scheduler, f"{schedule.steps} steps", *shifts])


def _shape(shape: Shape) -> str:
    latent = " × ".join(map(str, shape.latent))
    return f"{shape.width} × {shape.height}, {shape.frames} frames, latent {latent}"


def _sensitivity(table: SensitivityTable) -> Iterator[tuple[str, str]]:
    yield "Sensitivities", f"of the network's {table.target}, mean of {table.samples} videos"
    yield "Spread of alpha_x", _spread(table.alpha_x, table.alpha_x_std)
    yield "Spread of alpha_t", _spread(table.alpha_t, table.alpha_t_std)


def _spread(means: Sequence[float], stds: Sequence[float] | None) -> str:
    shares = sorted(std / mean for mean, std in zip(means, stds or (), strict=False) if mean)
    if not shares:
        return "not recorded"
    middle = shares[len(shares) // 2]
    return f"standard deviation: median {middle:.1%}, worst timestep {shares[-1]:.1%} of the mean"


def _calibration(made: Calibration) -> Iterator[tuple[str, str]]:
    where = f"noised latents of {len(made.clips)} clips" if made.clips else "the model's own trajectories"
    yield "Measured", f"{made.date}, on {where}, {len(made.seeds)} videos, {made.seconds:.0f} s"
    yield "Versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())


def gap_errors(measured: ForecastTable, gaps: Iterable[int]) -> dict[int, tuple[float, float, float]]:
    """By the number of reuses in a row, the relative error that a fitted forecast is expected to end at: its
    10 % quantile, median and 90 % quantile over the steps. Gaps that the steps have no room for are left out.
    """
    import numpy as np

    from sencache.gram import Gram

    gram = Gram(measured.table, measured.ridge)
    errors = {gap: gram.errors_after(gap) for gap in gaps}
    return {gap: tuple(np.quantile(e, (0.1, 0.5, 0.9)).tolist()) for gap, e in errors.items() if e}


def _expected_errors(measured: ForecastTable) -> str:
    gaps = gap_errors(measured, (1, 2, 4, 8))
    errors = ", ".join(f"{middle:.1%} after {gap}" for gap, (_, middle, _) in gaps.items())
    middle = f"; expected error, median over the steps: {errors} reuses in a row" if gaps else ""
    return f"of the {measured.target}, mean of {measured.samples} videos{middle}"
