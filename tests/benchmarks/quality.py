"""Quality at equal cost: every method, held and extrapolated, against the plain sampler with fewer steps.

    python tests/benchmarks/quality.py --out quality.json

For each held-out prompt (heldout_prompts.txt, in no calibration and no tuning) and each budget, one
comparison with `--nfe`: every knob is set for the budget on that prompt's full run, so all lanes cost the
same. Prints a Markdown table with mean and worst clip, and writes every single value.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tables

import sencache
from sencache.comparison import Compared
from sencache.models.model import model_spec, own_profile
from sencache.versions import versions

METHODS = ("fixed", "sencache", "magcache", "teacache", "easycache", "control")
LANES = ",".join(f"{method}:forecast={forecast}" for method in METHODS for forecast in ("hold", "linear"))
PROMPTS = Path(__file__).parent / "heldout_prompts.txt"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-wan")
    parser.add_argument("--nfe", default="25,20", help="budgets, comma-separated")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--seed", type=int, default=5000, help="of the first prompt; the next ones count up")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = [row for nfe in map(int, args.nfe.split(",")) for row in measure(args, nfe)]
    args.out.write_text(
        json.dumps({"versions": versions(), "arguments": _plain(args), "rows": rows}, indent=1)
    )
    print(tables.quality(rows))


def _plain(args: argparse.Namespace) -> dict[str, str]:
    return {name: str(value) for name, value in vars(args).items() if name != "out"}


def measure(args: argparse.Namespace, nfe: int) -> Iterator[dict[str, Any]]:
    """One row per prompt and lane."""
    spec = model_spec(args.model)
    model, profile, lanes = sencache.load(args.model), own_profile(spec), sencache.parse_lanes(LANES)
    for index, prompt in enumerate(PROMPTS.read_text().splitlines()):
        request = sencache.Request(
            prompt=prompt,
            seed=args.seed + index,
            steps=args.steps,
            height=spec.height,
            width=spec.width,
            frames=spec.frames,
            guidance_scale=spec.guidance_scale if args.guidance is None else args.guidance,
            nfe=nfe,
        )
        *_, last = sencache.compare(model, request, lanes, profile)
        assert isinstance(last, Compared)
        for lane in last.report.lanes[1:]:
            assert lane.metrics is not None
            values = {"psnr": lane.metrics.psnr, "lpips": lane.metrics.lpips, "ssim": lane.metrics.ssim}
            yield {"budget": nfe, "prompt": prompt, "lane": lane.name, "nfe": lane.nfe, **values}


if __name__ == "__main__":
    main()
