"""Pipelines of the real sizes with random weights, the same in miniature, and runs of them.

Sizes are those of the catalogue, configurations those of the published checkpoints' config.json. There is no
text encoder, and no VAE but where one is measured: random embeddings go in, latents come out.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import layouts
import pipelines
from pipelines import Tiny

from sencache.engine.attach import attach
from sencache.models.catalogue import MODELS
from sencache.models.placement import Work
from sencache.models.spec import ModelSpec
from sencache.policies import Policy


@dataclass(frozen=True)
class Entry:
    """One model at full size: its name in the catalogue, its configurations where they are not diffusers'
    defaults, the steps of a run, and the seconds of a computed guided step: not measured but computed from
    operations at 155 TFLOP/s, so rather too long.
    """

    key: str
    steps: int
    seconds: float
    transformer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec:
        return MODELS[self.key]


ENTRIES = {
    "wan": Entry("wan-1.3b", 6, 3.65, {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
    "cogvideox": Entry(
        "cogvideox-2b",
        8,
        1.55,
        scheduler={
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "clip_sample": False,
        },
    ),
    "ltx": Entry(
        "ltx",
        16,
        0.54,
        scheduler={
            "use_dynamic_shifting": True,
            "base_image_seq_len": 1024,
            "base_shift": 0.95,
            "max_shift": 2.05,
            "shift_terminal": 0.1,
        },
    ),
}
TEXT_WIDTH = 4096


def make_transformer(name: str, device: torch.device) -> Any:
    """At full size, its weights drawn on `device`."""
    network = type(pipelines.ALL[name]().pipe.transformer)
    with device:
        return network(**ENTRIES[name].transformer)


def make_subject(name: str, scale: str, device: torch.device, dtype: torch.dtype) -> Tiny:
    """The pipeline `name`, at `scale` full or tiny, with the same random weights every time."""
    subject = pipelines.ALL[name]()
    pipe, arguments = subject.pipe, subject.arguments(1)
    torch.manual_seed(0)
    if scale == "full":
        spec = ENTRIES[name].spec
        transformer = make_transformer(name, device)
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **ENTRIES[name].scheduler)
        shape = (1, spec.max_sequence_length, TEXT_WIDTH)
        arguments |= {"height": spec.height, "width": spec.width, "num_frames": spec.frames}
        arguments |= {key: torch.randn(shape) for key in arguments if key.endswith("embeds")}
        arguments |= {key: torch.ones(shape[:2], dtype=torch.long) for key in arguments if "mask" in key}
        if "max_sequence_length" in arguments:
            arguments["max_sequence_length"] = spec.max_sequence_length
    else:
        transformer, scheduler = pipe.transformer.to(device), pipe.scheduler
    _cast(transformer.eval().requires_grad_(False), dtype)
    pipe.register_modules(transformer=transformer, scheduler=scheduler, vae=None)
    for key, value in arguments.items():
        if torch.is_tensor(value):
            arguments[key] = value.to(device, dtype if value.is_floating_point() else value.dtype)
    return replace(subject, arguments=lambda _: arguments)


def make_vae(name: str, scale: str, device: torch.device) -> Any:
    """The model's VAE with random weights, on a GPU in the precision that it is run in."""
    torch.manual_seed(0)
    vae, spec = getattr(layouts, name)().vae, ENTRIES[name].spec
    dtype = spec.dtypes.get("vae", spec.dtype) if device.type == "cuda" else "float32"
    if scale == "full":
        with device:
            vae = type(vae)()
    vae.to(device).eval().requires_grad_(False)
    _cast(vae, getattr(torch, dtype))
    return vae


def _cast(network: Any, dtype: torch.dtype) -> None:
    """To `dtype`, but for what loading a checkpoint leaves in float32 as well."""
    kept = set(network._keep_in_fp32_modules or [])
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and not kept & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)


@dataclass(frozen=True)
class Timing:
    """One run: milliseconds of every step, seconds of all, peak bytes, and its latents."""

    steps: tuple[float, ...]
    seconds: float
    peak: int | None
    latents: torch.Tensor


class Bench:
    """Runs of one pipeline."""

    def __init__(self, subject: Tiny, scale: str, steps: int, compiled: bool = False) -> None:
        self.subject, self.scale, self.steps, self.compiled = subject, scale, steps, compiled
        self.device: torch.device = next(subject.blocks.parameters()).device
        self.cuda = self.device.type == "cuda"
        # The first step, then every other one: about half of all, as caches compute at their usual settings.
        self.schedule = tuple(sorted({0, *range(1, steps, 2)}))

    @property
    def weights(self) -> int:
        """Bytes of the transformer."""
        return sum(p.numel() * p.element_size() for p in self.subject.pipe.transformer.parameters())

    def work(self, lanes: int = 0, **changes: int) -> Work:
        """What the plan of the model's memory says of this size."""
        arguments, config = self.subject.arguments(1), self.subject.pipe.transformer.config
        inner = config.num_attention_heads * config.attention_head_dim
        size = {"height": arguments["height"], "width": arguments["width"], "frames": arguments["num_frames"]}
        widths = {"inner": inner, "feed_forward": getattr(config, "ffn_dim", 4 * inner)}
        spec = ENTRIES[self.subject.name].spec
        return Work.of(replace(spec, **{**size, **widths, "steps": self.steps, **changes}), lanes=lanes)

    def call(self, pipe: Any = None, callback: Any = lambda *_: {}) -> torch.Tensor:
        """One generation."""
        subject = replace(self.subject, pipe=pipe or self.subject.pipe)
        return subject(steps=self.steps, callback_on_step_end=callback)

    def run(self, policy: Policy | None = None, around: AbstractContextManager[Any] | None = None) -> Timing:
        """One generation, plain or under `policy`, timed without waiting for the device in between."""
        attached: Any = attach(self.subject.pipe, policy) if policy else (around or nullcontext())
        marks: list[Any] = []
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        with attached:
            first = self.subject.pipe.transformer.register_forward_pre_hook(
                lambda *_: None if marks else marks.append(self._mark())
            )
            try:
                latents = self.call(callback=lambda *_: marks.append(self._mark()) or {})
            finally:
                first.remove()
        if self.cuda:
            torch.cuda.synchronize()
        spans = tuple(self._between(a, b) for a, b in pairwise(marks))
        peak = torch.cuda.max_memory_allocated() if self.cuda else None
        return Timing(spans, sum(spans) / 1000, peak, latents)

    def _mark(self) -> Any:
        """A point in time on the device."""
        if not self.cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self, start: Any, end: Any) -> float:
        """Milliseconds."""
        return float(start.elapsed_time(end)) if self.cuda else float(end - start) * 1000
