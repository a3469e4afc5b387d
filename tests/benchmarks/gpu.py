"""What the engine costs and gains on a GPU, at the real sizes of three models: random weights, bfloat16.

    PYTHONPATH=. python tests/benchmarks/gpu.py [--models wan,cogvideox,ltx] [--steps 16] [--out FILE.json]
    PYTHONPATH=. python tests/benchmarks/gpu.py --scale tiny --device cpu     the same code in seconds

Prints one table with the targets beside the figures, and writes them as JSON. diffusers' MagCache and
FirstBlockCache run the same schedule on the same weights as peers. A part that runs out of memory, or fails,
is reported and the next one begins. Run it on a GPU that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from gpu_bench import Bench
from gpu_models import ENTRIES, Subject, make_subject
from gpu_parts import PARTS

from sencache.policies import Fixed

RESULTS = Path(__file__).parent / "results"
TARGETS = {
    "overhead": ("<=", 0.001),
    "reused over computed": ("<=", 0.01),
    "speed-up over ceiling": (">=", 0.99),
    "syncs per scored step": ("<=", 1.0),
    "bit-identical": (">=", 1.0),
    # Equal, but for the noise of two runs.
    "faster than": (">=", -0.005),
    "peak over that of": ("<=", 1.0),
}


@dataclass
class Figures:
    """One model's, eager or compiled; what could not be measured is in `failed` with the reason."""

    model: str
    compiled: bool
    values: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def measure(subject: Subject, steps: int, backend: str | None) -> Figures:
    """All parts; with `backend` the blocks are compiled before."""
    compiled = backend is not None
    figures, bench = Figures(subject.name, compiled), Bench(subject, steps, compiled)
    if backend is not None:
        for block in subject.blocks:
            block.compile(backend=backend)
    _attempt(figures, "warm-up", lambda: Bench(subject, 2, compiled).run(Fixed(interval=2)))
    for name, part in PARTS.items():
        _attempt(figures, name, partial(part, bench, figures.values))
    return figures


def _attempt(figures: Figures, name: str, part: Callable[[], object]) -> None:
    try:
        part()
    except torch.OutOfMemoryError:
        figures.failed[name] = "out of memory"
    except Exception as error:
        figures.failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    # Outside the handler: the error's frames hold the tensors.
    if name in figures.failed and torch.cuda.is_available():
        torch.cuda.empty_cache()


def machine(device: torch.device) -> dict[str, str]:
    """Named in the results."""
    from importlib.metadata import version

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    cuda = torch.version.cuda or "none"
    return {"device": name, "cuda": cuda, "torch": torch.__version__, "diffusers": version("diffusers")}


def table(figures: list[Figures]) -> str:
    """All models beside one another, a line per value, the target at its end."""
    titles = [f"{f.model}{' compiled' if f.compiled else ''}" for f in figures]
    lines = [f"{'':38s}" + "".join(f"{title:>20s}" for title in titles) + "   target"]
    for name in dict.fromkeys(name for one in figures for name in one.values):
        sign, limit = next((t for key, t in TARGETS.items() if name.startswith(key)), ("", 0.0))
        cells = [_cell(one.values.get(name), sign, limit) for one in figures]
        target = f"   {sign} {limit:g}" if sign else ""
        lines.append(f"{name:38s}" + "".join(f"{cell:>20s}" for cell in cells) + target)
    lines += [f"{f.model}: {part} failed: {reason}" for f in figures for part, reason in f.failed.items()]
    return "\n".join(lines)


def _cell(value: float | None, sign: str, limit: float) -> str:
    if value is None:
        return "-"
    missed = (sign == "<=" and value > limit) or (sign == ">=" and value < limit)
    return f"{value:.4g}{' missed' if missed else ''}"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(ENTRIES))
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--backend", default="inductor", help="of torch.compile; none leaves compiling out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device, figures = torch.device(options.device), []
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for name in options.models.split(","):
        for backend in (None, *([options.backend] if options.backend != "none" else [])):
            subject = make_subject(name, options.scale, device, torch.bfloat16)
            figures.append(measure(subject, options.steps, backend))
            del subject
            torch._dynamo.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    print(f"{machine(device)}, {options.steps} steps, {options.scale}\n{table(figures)}")
    out = options.out or RESULTS / f"gpu-{machine(device)['device'].lower().replace(' ', '-')}.json"
    content = {
        "machine": machine(device),
        "scale": options.scale,
        "steps": options.steps,
        "models": [asdict(one) for one in figures],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")
    return 1 if any(one.failed for one in figures) and device.type == "cuda" else 0


if __name__ == "__main__":
    sys.exit(main())
