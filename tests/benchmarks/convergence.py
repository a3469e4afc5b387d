"""How far a few calibration videos are from many: the paper's claim that 8 suffice, on a bundled model.

    PYTHONPATH=. python tests/benchmarks/convergence.py [--model tiny-wan] [--samples 64] [--keep DIR]

Measures all samples once, then draws subsets at random and compares their mean sensitivities with those of
all samples, and the evaluations that SenCache spends with them.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from sencache.calibration.profiling import CalibrationPlan, sensitivity
from sencache.calibration.recording import simulate
from sencache.calibration.samples import Sample, sample_of
from sencache.files import atomic
from sencache.models.model import MODELS, load
from sencache.policies import make_policy
from sencache.policies.loading import load_profile
from sencache.profiles.library import bundled_profile
from sencache.profiles.plots import Line, Panel, panels_svg
from sencache.profiles.profile import Profile
from sencache.schema import Request
from sencache.versions import versions

RESULTS = Path(__file__).parent / "results"
DRAWS = 200
PLAYED = 10


def deviations(samples: list[Sample], size: int, draws: np.random.Generator) -> np.ndarray[Any, Any]:
    """[draws, 2]: mean over steps of |subset's alpha - all samples' alpha| / all samples' alpha."""
    tables = np.stack([sample.alphas for sample in samples])
    everything = tables.mean(axis=0)
    rows = []
    for _ in range(DRAWS):
        subset = tables[draws.choice(len(tables), size, replace=False)].mean(axis=0)
        rows.append((np.abs(subset - everything) / everything).mean(axis=0))
    return np.array(rows)


def counts(profile: Profile, samples: list[Sample], chosen: list[Sample]) -> np.ndarray[Any, Any]:
    """Evaluations of SenCache's slow preset on every sample, with the sensitivities of those `chosen`."""
    told = profile.model_copy(update={"sensitivity": sensitivity(chosen, "output")})
    policy = make_policy("sencache", profile.presets["slow"]["sencache"], told)
    return np.array([simulate(policy, sample.recording).nfe for sample in samples])


def miscounts(profile: Profile, samples: list[Sample], size: int, draws: np.random.Generator) -> float:
    """Evaluations too many or too few on a video, against all samples, mean over some draws."""
    reference = counts(profile, samples, samples)
    off = []
    for _ in range(PLAYED):
        chosen = [samples[i] for i in draws.choice(len(samples), size, replace=False)]
        off.append(float(np.abs(counts(profile, samples, chosen) - reference).mean()))
    return float(np.mean(off))


def run(model_key: str, count: int, keep: Path | None) -> dict[str, Any]:
    """The table that is written to the results."""
    spec = MODELS[model_key]
    request = Request(
        prompt="any",
        seed=5000,
        **{name: getattr(spec, name) for name in ("steps", "height", "width", "frames", "guidance_scale")},
    )
    plan = CalibrationPlan(load(model_key), request, spec.calibration_prompts, count)
    samples = [sample_of(task, keep, lambda: None) for task in plan.tasks]
    assert spec.profile is not None
    profile, draws = load_profile(bundled_profile(spec.profile)), np.random.default_rng(0)
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if size < count]
    rows = []
    for size in sizes:
        off = deviations(samples, size, draws)
        rows.append(
            {
                "samples": size,
                "alpha_x": _quantiles(off[:, 0]),
                "alpha_t": _quantiles(off[:, 1]),
                "nfe": miscounts(profile, samples, size, draws),
            }
        )
        print(json.dumps(rows[-1]))
    machine = f"{platform.processor() or platform.machine()}, CPU"
    return {"model": model_key, "of": count, "machine": machine, "versions": versions(), "rows": rows}


def _quantiles(values: np.ndarray[Any, Any]) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95))}


def picture(result: dict[str, Any]) -> str:
    """Deviation over the number of samples."""
    x = tuple(float(row["samples"]) for row in result["rows"])
    shown = [
        Panel(f"{name}: median deviation from {result['of']} samples", "samples", Line(x, y))
        for name in ("alpha_x", "alpha_t")
        for y in (tuple(row[name]["median"] for row in result["rows"]),)
    ]
    y = tuple(row["nfe"] for row in result["rows"])
    shown.append(Panel("evaluations off, of SenCache's slow preset", "samples", Line(x, y)))
    return panels_svg(shown)


def main() -> None:
    """Parse the command line, measure, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="tiny-wan", choices=MODELS)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--keep", type=Path, help="folder for the single results, to go on after a stop")
    options = parser.parse_args()
    result = run(options.model, options.samples, options.keep)
    name = f"convergence-{options.model}"
    for suffix, text in (("json", json.dumps(result, indent=1) + "\n"), ("svg", picture(result))):
        with atomic(RESULTS / f"{name}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
