"""What the list of models shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sencache.models.checkpoint import cached_folder
from sencache.models.placement import Weights, Work, placements
from sencache.models.spec import ModelSpec


def describe_model(spec: ModelSpec) -> dict[str, Any]:
    """One model as plain data. Bytes are computed from parameter counts and shapes, not measured.

    `weights` is what the parts take in the precision they run in; the repository may hold more.
    """
    names = ("key", "summary", "licence", "pipeline", "architecture", "from_image", "profile")
    sizes = ("width", "height", "frames", "fps", "steps", "guidance_scale", "scheduler", "shift")
    return {
        **{name: getattr(spec, name) for name in (*names, *sizes)},
        "source": "bundled" if spec.bundled else str(spec.source),
        "here": cached_folder(spec) is not None,
        "bytes": _bytes(spec),
    }


def _bytes(spec: ModelSpec) -> dict[str, Any]:
    if isinstance(spec.source, Path):
        return {"weights": sum(file.stat().st_size for file in spec.source.rglob("*.safetensors"))}
    offered = list(placements(Weights.of(spec), Work.of(spec)))
    return {
        "weights": Weights.of(spec).total,
        "gpu_all_parts": offered[0].device_bytes,
        "gpu_least": min(placement.device_bytes for placement in offered),
        "measured": False,
    }
