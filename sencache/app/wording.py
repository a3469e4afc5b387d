"""What a step's record says, in words for people."""

from __future__ import annotations

from sencache.policies import words
from sencache.trace import StepRecord

REASONS = {
    "first_step": "the first step is always computed",
    "warmup": "computed: the method has not seen enough steps yet",
    "last_step": "computed: the method computes the last steps",
    "forced": "computed: no cache in this lane",
    "above_tolerance": "computed: the score is above the tolerance",
    "max_reuses": "computed: enough reuses in a row",
    "no_cache": "computed: nothing to reuse",
    "within_tolerance": "reused: the score is within the tolerance",
    "scheduled": "as scheduled in advance",
}


def terms(record: StepRecord) -> list[tuple[str, float]]:
    """The parts that add up to the score, where the method's score is a sum."""
    seen = record.signals
    if not {"alpha_x", "dx_rms", "alpha_t", "dt"} <= seen.keys():
        return []
    return [
        ("latent moved", seen["alpha_x"] * seen["dx_rms"]),
        ("time moved", seen["alpha_t"] * seen["dt"]),
    ]


def signals(record: StepRecord) -> list[tuple[str, float]]:
    """What the method looked at, named for people; empty where `terms` tells it already."""
    called = words()
    named = [(called.get(name, name.replace("_", " ")), value) for name, value in record.signals.items()]
    return [] if terms(record) else named
