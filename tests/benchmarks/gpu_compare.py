"""One whole comparison of a random Wan: what a visitor waits for, and what it takes."""

from __future__ import annotations

import copy
import resource
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from gpu_bench import Bench
from gpu_models import ENTRIES, make_vae, work_of

from sencache.comparison.compare import Compared, LaneDone, compare
from sencache.comparison.plan import parse_lanes
from sencache.models.catalogue import MODELS
from sencache.models.model import Encoded, Model
from sencache.schema import Request
from sencache.video import write_mp4

STEPS, NFE, FRAMES = 20, 10, 33
LANES = "none,fewer-steps,fixed,easycache:forced_first=4,control"


@dataclass
class Random(Model):
    """A model without a text encoder: every prompt is the same noise."""

    embeddings: dict[str, torch.Tensor] = field(default_factory=dict)

    def encode(self, prompt: str, negative_prompt: str, guidance_scale: float) -> Encoded:
        """The embeddings that it was given."""
        return Encoded(dict(self.embeddings))


def whole_comparison(bench: Bench, values: dict[str, float]) -> None:
    """Five lanes on a budget, with metrics and videos; nothing is saved."""
    subject = bench.subject
    size = replace(subject.size, frames=min(FRAMES, subject.size.frames))
    model = _model(bench)
    request = Request(
        **{"prompt": "anything", "steps": STEPS, "nfe": NFE, "guidance_scale": ENTRIES["wan"].guidance},
        **{"height": size.height, "width": size.width, "frames": size.frames},
    )
    peaks, encoding, began = list[int](), 0.0, time.perf_counter()
    with TemporaryDirectory() as folder:
        for event in compare(model, request, parse_lanes(LANES)):
            if isinstance(event, LaneDone):
                peaks.append(event.lane.peak_bytes or 0)
                at = time.perf_counter()
                write_mp4(Path(folder, "video.mp4"), event.frames, model.spec.fps)
                encoding += time.perf_counter() - at
            elif isinstance(event, Compared):
                values["comparison, denoising s"] = sum(lane.denoise_seconds for lane in event.report.lanes)
                values["comparison, decoding s"] = sum(lane.decode_seconds for lane in event.report.lanes)
    values["comparison, s"] = time.perf_counter() - began
    values["comparison, MP4 s"] = encoding
    values["comparison, resident GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if bench.cuda:
        values["comparison, peak GB"] = max(peaks) / 1e9
        parts = (*model.pipe.transformer.parameters(), *model.pipe.vae.parameters())
        weights = sum(p.numel() * p.element_size() for p in parts)
        planned = weights + work_of(subject, STEPS, lanes=3, frames=size.frames).peak()
        values["comparison, peak over plan"] = max(peaks) / planned


def _model(bench: Bench) -> Random:
    subject = bench.subject
    pipe = copy.copy(subject.pipe)
    pipe.register_modules(vae=make_vae("wan", subject.scale, subject.device))
    names = ("prompt_embeds", "negative_prompt_embeds")
    spec = replace(MODELS[ENTRIES["wan"].key], min_side=16)
    embeddings = {name: subject.arguments[name] for name in names}
    return Random(spec, pipe, subject.device, subject.transformer.dtype, embeddings=embeddings)
