"""One calibrated video: everything that a profile needs of it, in a small file of its own.

Calibrating a large model takes hours. Each video's result is written as it is done and found again by the
settings it was made under, so a run that was killed goes on where it stood.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sencache.architectures import architecture_of
from sencache.calibration.clips import Noising, clean_latent, read_clip
from sencache.calibration.recording import Array, Recording, full_watch_list
from sencache.calibration.sensitivity import Measured, Noised, Survey
from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.files import atomic
from sencache.models.model import Model
from sencache.policies import Full
from sencache.schema import Request

# Of what a file keeps: 4 has the inner products of the guided predictions.
FORMAT = 4
TABLE = "table."
MEASURED = ("alphas", "magnitudes")


@dataclass(frozen=True)
class Sample:
    """What one video of N steps gives.

    `alphas`: [N-1, 2], alpha_x and alpha_t at every step but the last. `magnitudes`: [N-1, 2], MagCache's
    ratio and the relative L1 change of the output into every step but the first. `evaluations`: of the
    transformer, those of plain generations and those on top.
    """

    alphas: Array
    magnitudes: Array
    recording: Recording
    latent: tuple[int, ...]
    evaluations: tuple[int, int]
    seconds: float


@dataclass(frozen=True)
class Task:
    """One video to measure: on `clip`, where the paper's method is asked for, and along the model's own
    trajectory otherwise.
    """

    model: Model
    request: Request
    target: Measured
    clip: Path | None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that the result depends on, as JSON data; so neither which GPU of several it was nor
        where parts waited, which follows from the memory that happened to be free.
        """
        scheduler, device = self.model.pipe.scheduler, self.model.device.type
        info = self.model.info().model_copy(update={"device": device, "placement": None, "gpu": None})
        config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
        return {
            "format": FORMAT,
            "tables": sorted({name for sense, target in full_watch_list() for name in sense.tables(target)}),
            "model": info.model_dump(),
            "request": self.request.model_dump(),
            "scheduler": [type(scheduler).__name__, json.loads(json.dumps(config, default=str))],
            "target": self.target,
            "clip": None if self.clip is None else hashlib.sha256(self.clip.read_bytes()).hexdigest(),
        }

    @property
    def name(self) -> str:
        text = json.dumps(self.settings, sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"

    @property
    def steps(self) -> int:
        """Of the one generation that it takes, or of two, on a clip."""
        return self.request.steps if self.clip is None else 2 * self.request.steps

    def measure(self, on_step: Callable[[], object]) -> Sample:
        """Make the video and watch; `on_step` is called after every step. Raises SencacheError as `probe`
        does, and for clips that cannot be used.
        """
        began = time.perf_counter()
        pipe, generate = self.model.pipe, partial(self._generate, on_step)
        if self.clip is None:
            sample = probe(pipe, generate, self.target)
        else:
            sample = probe(pipe, generate, None)
            alphas, evaluations = self._on_clip(self.clip, generate)
            sample = replace(sample, alphas=alphas, evaluations=(sample.evaluations[0], evaluations))
        return replace(sample, seconds=time.perf_counter() - began)

    def _generate(
        self,
        on_step: Callable[[], object],
        latent: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
        **changes: Any,
    ) -> None:
        """One generation of the request with `changes`. `latent(step, own)` gives every following step's
        latent where the sampler's own is not wanted.
        """
        model, request = self.model, self.request.model_copy(update=changes)

        def after_step(_: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step()
            last = index + 1 == request.steps
            return {} if latent is None or last else {"latents": latent(index + 1, tensors["latents"])}

        encoded = model.encode(request.prompt, request.negative_prompt, request.guidance_scale)
        model.latent(model.pipe, encoded, request, after_step)

    def _on_clip(self, clip: Path, generate: Callable[..., None]) -> tuple[Array, int]:
        """The paper's alphas and the evaluations they took: the prompt's own branch at noised latents of the
        clip, fresh noise at every step. The first step sees pure noise, as the samplers start from it.
        """
        request, spec, pipe = self.request, self.model.spec, self.model.pipe
        pixels = read_clip(clip, request.frames, request.height, request.width, spec.fps)
        clean = clean_latent(pipe, spec.architecture, pixels)
        generator = torch.Generator().manual_seed(request.seed)
        noising = Noising(pipe.scheduler)

        def latent(step: int, own: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(own.shape, generator=generator).to(clean)
            return noising.add_noise(clean, noise, step).to(own)

        observer = Noised(self.target, noising)
        with attach(pipe, Full(), observer=observer) as trace:
            generate(latent=latent, guidance_scale=1.0)
        return observer.alphas(), trace.transformer_calls + observer.evaluations


def probe(pipe: Any, call: Callable[[], object], target: Measured | None = "output") -> Sample:
    """Watch one generation of one video along its own trajectory: `call()` calls `pipe`.

    `target` None leaves the sensitivities out. Raises SencacheError below two steps, where the scheduler
    repeats a timestep, and for several videos at once.
    """
    survey = Survey(architecture_of(pipe.transformer).default_signal, target)
    began = time.perf_counter()
    with attach(pipe, Full(), observer=survey) as trace:
        call()
    if len(trace) < 2:
        raise SencacheError("calibration needs at least two steps to see a change; ask for more steps")
    return Sample(
        alphas=survey.alphas(),
        magnitudes=survey.magnitudes(),
        recording=survey.recording(),
        latent=survey.latent_shape,
        evaluations=(trace.transformer_calls, survey.evaluations),
        seconds=time.perf_counter() - began,
    )


def sample_of(task: Task, folder: Path | None, on_step: Callable[[], object]) -> Sample:
    """The sample of `task` from `folder`, made and kept there if it is missing."""
    if folder is None:
        return task.measure(on_step)
    path = folder / task.name
    if path.exists():
        for _ in range(task.steps):
            on_step()
        return read_sample(path)
    sample = task.measure(on_step)
    write_sample(sample, path, task.settings)
    return sample


def write_sample(sample: Sample, path: Path, settings: dict[str, Any]) -> None:
    """Keep `sample` and what it was made under, in one move."""
    recording = sample.recording
    arrays = {name: getattr(sample, name) for name in MEASURED}
    arrays |= {f"{TABLE}{name}": np.ascontiguousarray(table) for name, table in recording.tables.items()}
    arrays["timesteps"] = np.array(recording.timesteps)
    if recording.sigmas is not None:
        arrays["sigmas"] = np.array(recording.sigmas)
    arrays["handovers"] = np.array(recording.handovers, dtype=np.int64)
    arrays["blocks"], arrays["latent"] = np.array(recording.blocks), np.array(sample.latent)
    arrays["cost"] = np.array([*sample.evaluations, sample.seconds])
    with atomic(path) as temporary:
        save_file(arrays, temporary, {"settings": json.dumps(settings)})


def read_sample(path: Path) -> Sample:
    """A kept sample; raises SencacheError when the file is damaged."""
    try:
        arrays = load_file(path)
        plain, extra, seconds = arrays["cost"].tolist()
        tables = {n.removeprefix(TABLE): table for n, table in arrays.items() if n.startswith(TABLE)}
        return Sample(
            **{name: arrays[name] for name in MEASURED},
            recording=Recording(
                timesteps=tuple(arrays["timesteps"].tolist()),
                sigmas=tuple(arrays["sigmas"].tolist()) if "sigmas" in arrays else None,
                tables=tables,
                handovers=tuple(arrays["handovers"].tolist()),
                blocks=int(arrays["blocks"]),
            ),
            latent=tuple(arrays["latent"].tolist()),
            evaluations=(int(plain), int(extra)),
            seconds=seconds,
        )
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise SencacheError(
            f"cannot read the kept sample {path} ({error}); delete it to measure it anew"
        ) from None
