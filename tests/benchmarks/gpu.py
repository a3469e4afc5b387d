"""What the engine costs and gains on a GPU, at the real sizes of three models: random weights, bfloat16.

    export PYTHONPATH=.
    python tests/benchmarks/gpu.py --plan                       the parts, and how long each takes
    python tests/benchmarks/gpu.py --resume --within 540        as many as fit nine minutes
    python tests/benchmarks/gpu.py --models ltx --only eager --parts costs,peers [--out FILE.json]
    python tests/benchmarks/gpu.py --scale tiny --device cpu    the same code in seconds

A part is meant to take 8 minutes at most; how long is computed beforehand, from operations, and rather too
long. The JSON is written after every part. With --resume what stands in it is left out, but for what failed:
where a machine is lent by the minute, the second line is repeated until it says that nothing is left.

Prints one table with the targets beside the figures. diffusers' MagCache and FirstBlockCache run the same
schedule on the same weights as peers. A part that runs out of memory, or fails, is reported and the next one
begins. Run it on a GPU that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from gpu_bench import ENTRIES, Bench, make_subject
from gpu_parts import PARTS

from sencache.errors import SencacheError
from sencache.files import atomic
from sencache.policies import Fixed

RESULTS = Path(__file__).parent / "results"
# Of one part, in seconds; and what is guessed for compiling the blocks.
LONGEST, COMPILING = 480, 120
TARGETS = {
    "overhead": ("<=", 0.001),
    "reused over computed": ("<=", 0.01),
    "speed-up over ceiling": (">=", 0.99),
    "syncs per scored step": ("<=", 1.0),
    "bit-identical": (">=", 1.0),
    # Equal, but for the noise of two runs.
    "faster than": (">=", -0.005),
    "peak over that of": ("<=", 1.0),
    "over plan": ("1 +-", 0.1),
}


@dataclass
class Figures:
    """One model's, eager or compiled, in runs of so many steps. `parts` were measured, in so many seconds;
    what could not be is in `failed` with the reason.
    """

    model: str
    compiled: bool
    steps: int
    values: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.model}{' compiled' if self.compiled else ''}"

    def seconds(self, part: str) -> float:
        """That `part` takes at full size, as computed before."""
        entry, chosen = ENTRIES[self.model], PARTS[part]
        return entry.seconds * chosen.steps(self.steps) + chosen.seconds + COMPILING * self.compiled

    def left(self, asked: list[str]) -> list[str]:
        """Those of the parts asked for that are not measured yet."""
        return [
            part
            for part in asked
            if part not in self.parts
            and PARTS[part].only in (None, self.model)
            and not (self.compiled and PARTS[part].eager_only)
        ]


def _attempt(figures: Figures, name: str, part: Callable[[], object]) -> bool:
    """Whether it could be done."""
    figures.failed.pop(name, None)
    try:
        part()
    except torch.OutOfMemoryError:
        figures.failed[name] = "out of memory"
    except Exception as error:
        figures.failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    # Outside the handler: the error's frames hold the tensors.
    if name in figures.failed and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return name not in figures.failed


def machine(device: torch.device) -> dict[str, str]:
    """Named in the results."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    cuda = torch.version.cuda or "none"
    return {"device": name, "cuda": cuda, "torch": torch.__version__, "diffusers": version("diffusers")}


def table(figures: list[Figures]) -> str:
    """All models beside one another, a line per value, the target at its end."""
    lines = [f"{'':38s}" + "".join(f"{one.title:>20s}" for one in figures) + "   target"]
    for name in dict.fromkeys(name for one in figures for name in one.values):
        sign, limit = next((t for key, t in TARGETS.items() if key in name), ("", 0.0))
        cells = [_cell(one.values.get(name), sign, limit) for one in figures]
        target = f"   {sign} {limit:g}" if sign else ""
        lines.append(f"{name:38s}" + "".join(f"{cell:>20s}" for cell in cells) + target)
    lines += [f"{f.title}: {part} failed: {reason}" for f in figures for part, reason in f.failed.items()]
    return "\n".join(lines)


def _cell(value: float | None, sign: str, limit: float) -> str:
    if value is None:
        return "-"
    met = {"": True, "<=": value <= limit, ">=": value >= limit, "1 +-": abs(value - 1) <= limit}
    return f"{value:.4g}{'' if met[sign] else ' missed'}"


def plan(figures: list[Figures], asked: list[str]) -> str:
    """What is left to do, a line a part."""
    lines = []
    for one in figures:
        for part in one.left(asked):
            seconds = one.seconds(part)
            long = ": too long for one part, ask for fewer --steps" if seconds > LONGEST else ""
            lines.append(f"{one.title:20s}{part:12s}{one.steps:4d} steps  about {seconds:4.0f} s{long}")
    return "\n".join(lines) or "nothing is left"


def read(out: Path, settings: dict[str, Any]) -> list[Figures]:
    """What was measured under the same settings; raises SencacheError where the file is of others."""
    if not out.exists():
        return []
    content = json.loads(out.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if content[name] != value:
            raise SencacheError(f"{out} has {name} {content[name]}, not {value}; give another --out")
    return [Figures(**one) for one in content["models"]]


def write(out: Path, settings: dict[str, Any], figures: list[Figures]) -> None:
    """All so far, in one move."""
    content = settings | {"models": [asdict(one) for one in figures if one.parts or one.failed]}
    with atomic(out) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(ENTRIES))
    parser.add_argument("--parts", default=",".join(PARTS), help="any of %(default)s")
    parser.add_argument("--only", choices=("eager", "compiled"), help="both unless given")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, help="of a run; each model's own unless given")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true", help="leave out what stands in --out")
    parser.add_argument("--within", type=float, default=math.inf, help="seconds that all parts may take")
    parser.add_argument("--plan", action="store_true", help="say what there is to do, and do nothing")
    return parser.parse_args()


def asked_for(given: argparse.Namespace, before: list[Figures]) -> list[Figures]:
    """Model by model, eager and compiled, with what was measured of them before."""
    kinds = [kind == "compiled" for kind in ("eager", "compiled") if given.only in (None, kind)]
    new = [
        Figures(name, compiled, given.steps or ENTRIES[name].steps)
        for name in given.models.split(",")
        for compiled in kinds
    ]
    known = {(one.title, one.steps): one for one in before}
    return [known.get((one.title, one.steps), one) for one in new]


def measure(one: Figures, parts: list[str], given: argparse.Namespace, end: float) -> Iterator[str]:
    """Those of `parts` that can be done until `end`, in turn, each one's name when it is done."""
    if all(one.seconds(part) > end - time.perf_counter() for part in parts):
        return
    subject = make_subject(one.model, given.scale, torch.device(given.device), torch.bfloat16)
    if one.compiled:
        for block in subject.blocks:
            block.compile(backend=given.backend)
    _attempt(one, "warm-up", partial(Bench(subject, given.scale, 2).run, Fixed(interval=2)))
    bench = Bench(subject, given.scale, one.steps, one.compiled)
    for part in parts:
        began = time.perf_counter()
        if one.seconds(part) > end - began:
            continue
        if _attempt(one, part, partial(PARTS[part].run, bench, one.values)):
            one.parts[part] = time.perf_counter() - began
        yield part


def main() -> int:
    """Measure, write after every part, print."""
    given, began = parse_options(), time.perf_counter()
    device = torch.device(given.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    here = machine(device)
    settings = {"machine": here, "scale": given.scale}
    out = given.out or RESULTS / f"gpu-{here['device'].lower().replace(' ', '-')}.json"
    before = read(out, settings) if given.resume else []
    figures, parts = asked_for(given, before), given.parts.split(",")
    everything = [*figures, *(one for one in before if one not in figures)]
    print(plan(figures, parts), flush=True)
    if given.plan:
        return 0
    for one in figures:
        for part in measure(one, one.left(parts), given, began + given.within):
            write(out, settings, everything)
            print(f"{one.title} {part}: {one.failed.get(part) or f'{one.parts[part]:.0f} s'}", flush=True)
        # The model is gone with its iterator.
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"{here}, {given.scale}\n{table(figures)}\nleft:\n{plan(figures, parts)}")
    return 1 if any(one.failed for one in figures) and device.type == "cuda" else 0


if __name__ == "__main__":
    sys.exit(main())
