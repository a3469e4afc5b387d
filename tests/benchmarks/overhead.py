"""What an attached policy costs on tiny-wan: per computed step, per reused step, and for nine lanes.

    PYTHONPATH=. python tests/benchmarks/overhead.py [--rounds 15]

Variants are timed round after round, in another order each time, so that a busy machine disturbs all of them
alike; medians, with the spread from the 25th to the 75th percentile. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

import sencache
from sencache.cli.commands import DEFAULT_METHODS
from sencache.models.model import Model, own_profile
from sencache.policies import Policy

STEPS = 50
HALF = (*range(0, STEPS, 2), STEPS - 1)
REQUEST = sencache.Request(
    prompt="a red circle moving right", steps=STEPS, height=64, width=64, frames=17, guidance_scale=4.0
)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    model = sencache.load("tiny-wan")
    generation = _Generation(model)
    generation()
    plain = _steps(generation, rounds)
    _parts(generation, rounds, statistics.median(plain))
    _nine_lanes(model)


class _Generation:
    """Seconds of one 50-step run to latents, plain or under a policy."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.encoded = model.encode(REQUEST.prompt, "", REQUEST.guidance_scale)

    def __call__(self, policy: Policy | None = None) -> float:
        attached: Any = sencache.attach(self.model.pipe, policy) if policy else nullcontext()
        with attached:
            began = time.perf_counter()
            self.model.latent(self.model.pipe, self.encoded, REQUEST)
            return time.perf_counter() - began


def _timed(rounds: int, variants: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Milliseconds per step of every variant."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    shuffle = random.Random(0).sample
    for _ in range(rounds):
        for name in shuffle(list(variants), len(variants)):
            times[name].append(variants[name]() * 1000 / STEPS)
    return times


def _steps(generation: _Generation, rounds: int) -> list[float]:
    profile = own_profile(generation.model.spec)
    assert profile is not None
    policies: dict[str, Policy | None] = {
        "plain pipeline": None,
        "none": sencache.Full(),
        "fixed, interval 1 (caches, no score)": sencache.Fixed(interval=1),
        "sencache, tolerance 0 (scores every step)": sencache.SenCache(profile, tolerance=0),
        "every step but the first reused, residual": sencache.Fixed(interval=999),
        "the same, output": sencache.Fixed(interval=999, target="output"),
        "the same, prediction": sencache.Fixed(interval=999, target="prediction"),
        "26 of 50 computed, prediction": sencache.Fixed(steps=HALF, target="prediction"),
        "the same, replayed": sencache.Fixed(steps=HALF, target="prediction", repair="replay"),
        "control, 26 of 50": sencache.Control(profile=profile, budget=0.52),
    }
    times = _timed(rounds, {name: lambda p=policy: generation(p) for name, policy in policies.items()})
    print(f"{'ms per step':45s} median   25%-75%   over plain")
    plain = times["plain pipeline"]
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        pairs = [value - base for value, base in zip(values, plain, strict=True)]
        print(f"{name:45s} {middle:6.3f}  {low:.3f}-{high:.3f}  {statistics.median(pairs):+.3f}")
    return plain


def _parts(generation: _Generation, rounds: int, plain: float) -> None:
    """Where a reused step's time goes: the children of the transformer that still run, the sampler,
    and the rest.
    """
    transformer = generation.model.pipe.transformer
    children = ["patch_embedding", "rope", "condition_embedder", "norm_out", "proj_out"]
    samples: dict[str, list[float]] = {name: [] for name in (*children, "scheduler.step", "whole step")}
    for _ in range(rounds):
        with _stopwatch(transformer, children, generation.model.pipe.scheduler) as spent:
            whole = generation(sencache.Fixed(interval=999))
        spent["whole step"] = whole
        for name, seconds in spent.items():
            samples[name].append(seconds * 1000 / STEPS)
    print("\nreused step, ms (stopwatches included)")
    for name, values in samples.items():
        print(f"{name:45s} {statistics.median(values):6.3f}")
    whole_step = statistics.median(samples.pop("whole step"))
    rest = whole_step - sum(statistics.median(values) for values in samples.values())
    print(f"{'rest: Python of pipeline, modules and engine':45s} {rest:6.3f}")
    print(f"{'reused over computed step':45s} {whole_step / plain:6.1%}")


@contextmanager
def _stopwatch(transformer: torch.nn.Module, children: list[str], scheduler: Any) -> Any:
    spent = dict.fromkeys([*children, "scheduler.step"], 0.0)
    handles, began = [], {}
    for name in children:
        child = transformer.get_submodule(name)

        def start(*_: Any, name: str = name) -> None:
            began[name] = time.perf_counter()

        def stop(*_: Any, name: str = name) -> None:
            spent[name] += time.perf_counter() - began[name]

        handles += [child.register_forward_pre_hook(start), child.register_forward_hook(stop)]
    own_step = scheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = own_step(*args, **kwargs)
        spent["scheduler.step"] += time.perf_counter() - start
        return result

    scheduler.step = step
    try:
        yield spent
    finally:
        del scheduler.step
        for handle in handles:
            handle.remove()


def _nine_lanes(model: Model) -> None:
    """The comparison of the README, model load apart."""
    profile = own_profile(model.spec)
    request = REQUEST.model_copy(update={"preset": "slow"})
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        *_, last = sencache.compare(model, request, sencache.parse_lanes(DEFAULT_METHODS), profile)
        seconds.append(time.perf_counter() - began)
    lanes = len(last.report.lanes)  # type: ignore[union-attr]
    print(f"\n{lanes} lanes with decoding and metrics: {', '.join(f'{s:.2f}' for s in seconds)} s")
    print(f"per lane: {min(seconds) / lanes:.2f} s; {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
