"""The signals that rules read, measured on the device.

A sensor follows the first call of every step. Nothing is brought to the host until a rule asks, and then
everything in one transfer, so a scored step costs one synchronisation and any other step none. Batches are
decided on their worst sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from sencache.engine.step import StepState
from sencache.policies.base import Sense

Scene = StepState


class Sensor:
    """One kind of measurement in one run."""

    def arrive(self, scene: Scene) -> None:
        """Every step, before the decision."""

    def values(self) -> dict[str, torch.Tensor]:
        """The signals at this step as 0-d tensors."""
        return {}

    def computed(self, scene: Scene) -> None:
        """Every computed step, once its first call has returned and before its value is cached."""

    def tensors(self) -> Iterable[torch.Tensor | None]:
        """What is kept from step to step."""
        return ()


class LatentDistance(Sensor):
    """`dx_rms`: RMS distance of the latent to that of the last computed step, per element of one sample."""

    def __init__(self) -> None:
        self._now: torch.Tensor | None = None
        self._reference: torch.Tensor | None = None

    def arrive(self, scene: Scene) -> None:
        self._now = scene.latent

    def values(self) -> dict[str, torch.Tensor]:
        assert self._now is not None and self._reference is not None
        return {"dx_rms": rms(self._now - self._reference).amax()}

    def computed(self, scene: Scene) -> None:
        self._reference = _keep(self._reference, scene.latent)

    def tensors(self) -> Iterable[torch.Tensor | None]:
        return (self._reference,)


class SignalChange(Sensor):
    """`relative_l1`: mean|s_i - s_{i-1}| / mean|s_{i-1}| of the policy's signal, from every step to
    the next.
    """

    def __init__(self) -> None:
        self._signal: torch.Tensor | None = None
        self._change: torch.Tensor | None = None

    def arrive(self, scene: Scene) -> None:
        assert scene.signal is not None
        if self._signal is not None:
            self._change = relative_l1(scene.signal, self._signal).amax()
        self._signal = scene.signal

    def values(self) -> dict[str, torch.Tensor]:
        assert self._change is not None
        return {"relative_l1": self._change}

    def tensors(self) -> Iterable[torch.Tensor | None]:
        return (self._signal,)


class OutputRate(Sensor):
    """EasyCache's three: `input_change` to the previous step, `output_norm` of the last computed step and the
    `rate` of output change per input change between the last two; all mean absolute values, of the sample
    with the largest product."""

    def __init__(self) -> None:
        self._before: torch.Tensor | None = None
        self._change: torch.Tensor | None = None
        self._latent: torch.Tensor | None = None
        self._output: torch.Tensor | None = None
        self._rate: torch.Tensor | None = None

    def arrive(self, scene: Scene) -> None:
        if self._before is not None:
            self._change = mean_abs(scene.latent - self._before)
        self._before = _keep(self._before, scene.latent)

    def values(self) -> dict[str, torch.Tensor]:
        assert self._change is not None and self._output is not None and self._rate is not None
        norm = mean_abs(self._output)
        worst = (self._rate * self._change / norm).argmax()
        found = {"input_change": self._change, "output_norm": norm, "rate": self._rate}
        # An index in brackets would be brought to the host, and the device waited for.
        return {name: value.index_select(0, worst).squeeze(0) for name, value in found.items()}

    def computed(self, scene: Scene) -> None:
        assert scene.output is not None
        output = scene.output[scene.conditional]
        if self._output is not None and self._latent is not None:
            self._rate = mean_abs(output - self._output) / mean_abs(scene.latent - self._latent)
        self._output, self._latent = output, _keep(self._latent, scene.latent)

    def tensors(self) -> Iterable[torch.Tensor | None]:
        return (self._before, self._latent, self._output)


class ForecastError(Sensor):
    """`forecast_error`: |v - v_hat| / |v| of the last computed step against the forecast that reuse would
    have made of it.
    """

    def __init__(self) -> None:
        self._error: torch.Tensor | None = None

    def values(self) -> dict[str, torch.Tensor]:
        assert self._error is not None
        return {"forecast_error": self._error}

    def computed(self, scene: Scene) -> None:
        assert scene.history is not None and scene.value is not None
        if scene.history.complete:
            missed = (scene.value - scene.history.forecast(scene.step.timestep))[scene.conditional]
            self._error = (rms(missed) / rms(scene.value[scene.conditional])).amax()


SENSORS: Mapping[Sense, type[Sensor]] = {
    "dx_rms": LatentDistance,
    "relative_l1": SignalChange,
    "output_rate": OutputRate,
    "forecast_error": ForecastError,
}


def fetch(sensors: Iterable[Sensor]) -> dict[str, float]:
    """The signals of all `sensors` as Python floats, in one transfer from the device."""
    found = {name: value for sensor in sensors for name, value in sensor.values().items()}
    if len(found) <= 1:
        return {name: value.item() for name, value in found.items()}
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))


def rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean square of every sample, accumulated in float32: [B, ...] -> [B]."""
    flat = x.flatten(1)
    norm: torch.Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float32)
    return norm.div_(math.sqrt(flat.shape[1]))


def mean_abs(x: torch.Tensor) -> torch.Tensor:
    """Mean absolute value of every sample in float32: [B, ...] -> [B]."""
    return x.flatten(1).abs().mean(dim=1, dtype=torch.float32)


def relative_l1(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """mean|now - before| / mean|before| of every sample: [B, ...] -> [B]."""
    return mean_abs(now - before) / mean_abs(before)


def _keep(buffer: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    # A copy: the pipeline's callback may hand back a latent that it then changes in place.
    # The first latent of a run may have another precision than those that the scheduler returns.
    if buffer is None or buffer.dtype != value.dtype:
        return value.clone()
    return buffer.copy_(value)
