"""Transformer blocks that wait in RAM: moved in when they are called, or one ahead on a stream."""

from __future__ import annotations

from statistics import median

import torch
from gpu_bench import Bench
from gpu_models import make_subject

from sencache.models.loading import bring_blocks_one_by_one

STEPS = 3


def offloading(bench: Bench, values: dict[str, float]) -> None:
    """Milliseconds of a step and peak, of a second copy of the model."""
    own = bench.subject
    resident = Bench(own, STEPS, compiled=False).run()
    values["step with all blocks there, ms"] = median(resident.steps[1:])
    for name, ahead in (("moved", False), ("streamed", True)):
        if ahead and not bench.cuda:
            raise NotImplementedError("streams are CUDA's only")
        before = torch.cuda.memory_allocated() if bench.cuda else 0
        subject = make_subject(own.name, own.scale, own.device, own.transformer.dtype)
        subject.transformer.to("cpu")
        bring_blocks_one_by_one(subject.transformer, own.device, ahead)
        timing = Bench(subject, STEPS, compiled=False).run()
        values[f"step with blocks {name}, ms"] = median(timing.steps[1:])
        values[f"bit-identical, blocks {name}"] = float(torch.equal(timing.latents, resident.latents))
        if timing.peak is not None:
            values[f"peak with blocks {name}, GB"] = (timing.peak - before) / 1e9
