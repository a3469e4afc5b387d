"""Is a bundled model a test for step caching? How its output changes, and quality at equal cost.

    PYTHONPATH=. python tests/benchmarks/testbed.py --model tiny-wan --prompts 32 --out testbed.json

Prompts are held out: the training of no bundled model saw their triples of colour, shape and motion, and no
calibration used them. Every lane's knob is set for the budget on the prompt's own full run, so that all cost
the same. Prints the two tables of the model's card and writes every value.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import tables

import sencache
from sencache.calibration.recording import Recorder
from sencache.comparison.compare import Compared
from sencache.engine.attach import attach
from sencache.models.model import Model, own_profile
from sencache.policies import EasyCache, Full
from sencache.policies.base import watch_list
from sencache.schema import Request
from sencache.versions import versions
from training.clips import sample_clip

LANES = (
    "fixed,sencache,sencache:forecast=linear,magcache,teacache,easycache,fewer-steps,"
    "control:forecast=linear:target=residual:repair=none"
)
SEED = 7000


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-wan")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--nfe", default="25,20", help="budgets, comma-separated")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, budgets = sencache.load(args.model), [int(nfe) for nfe in args.nfe.split(",")]
    requests = [_request(model, prompt, SEED + i) for i, prompt in enumerate(prompts(args.prompts))]
    curve = np.mean([changes(model, request) for request in requests[:8]], axis=0)
    rows = [row for nfe in budgets for request in requests for row in quality(model, request, nfe)]
    result = {"versions": versions(), "model": args.model, "changes": curve.tolist(), "rows": rows}
    args.out.write_text(json.dumps(result, indent=1))
    print(tables.changes(result["changes"]), tables.quality(rows), sep="\n\n")


def prompts(count: int) -> list[str]:
    """Held-out captions, the same ones every time."""
    rng = np.random.default_rng(SEED)
    return [sample_clip(rng, held_out=True).caption for _ in range(count)]


def _request(model: Model, prompt: str, seed: int) -> Request:
    spec = model.spec
    size = {"height": spec.height, "width": spec.width, "frames": spec.frames}
    return Request(prompt=prompt, seed=seed, steps=spec.steps, guidance_scale=spec.guidance_scale, **size)


def changes(model: Model, request: Request) -> np.ndarray[Any, Any]:
    """Mean absolute change of the network's output between consecutive steps, relative to it: [steps - 1]."""
    recorder = Recorder(None, watch_list(EasyCache))
    encoded = model.encode(request.prompt, "", request.guidance_scale)
    with attach(model.pipe, Full(), observer=recorder):
        model.latent(model.pipe, encoded, request)
    kept = recorder.recording().tables
    relative: np.ndarray[Any, Any] = np.diagonal(kept["output_l1"], offset=1) / kept["output_norm"][1:]
    return relative


def quality(model: Model, request: Request, nfe: int) -> list[dict[str, Any]]:
    """One row per method at the budget, against the full run."""
    asked = request.model_copy(update={"nfe": nfe})
    *_, last = sencache.compare(model, asked, sencache.parse_lanes(LANES), own_profile(model.spec))
    assert isinstance(last, Compared)
    rows = []
    for lane in last.report.lanes[1:]:
        assert lane.metrics is not None
        values = {"psnr": lane.metrics.psnr, "lpips": lane.metrics.lpips, "ssim": lane.metrics.ssim}
        rows.append({"budget": nfe, "prompt": request.prompt, "lane": lane.name, "nfe": lane.nfe, **values})
    return rows


if __name__ == "__main__":
    main()
