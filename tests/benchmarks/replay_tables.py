"""The Markdown tables and the targets of what `replay.py` measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

FEWER, CONTROL = "fewer-steps", "control"
# The rule of version 0.1, and the simplest repaired reuse.
LINEAR = "control:forecast=linear:target=residual:repair=none"
HOLD = "control:forecast=hold:repair=replay"
REPLAY, FITTED = ":repair=replay", ":forecast=fitted:repair=replay"
PUBLISHED = ("sencache", "magcache", "teacache", "easycache")
COLUMNS = ("prompt", "lane", "budget", "psnr", "lpips", "ssim", "nfe")
# What control is to gain over fewer steps, and replay over a published rule, in dB.
GAINS, REPAIRED = {25: 8, 20: 8, 15: 5, 12: 5}, 5
IDENTICAL = 100.0
Row = dict[str, Any]


def rows_of(stored: dict[str, Any]) -> list[Row]:
    """What was measured, by the names of the columns."""
    return [dict(zip(COLUMNS, values, strict=True)) for values in stored["rows"]]


def table(stored: dict[str, Any]) -> str:
    """A table per budget, and the targets."""
    rows, parts = rows_of(stored), [_title(stored)]
    for nfe in dict.fromkeys(row["budget"] for row in rows):
        lanes = Lanes([row for row in rows if row["budget"] == nfe])
        parts += [
            _table(nfe, lanes),
            "\n".join(f"- {line}" for line in targets(nfe, lanes, stored["guidance"])),
        ]
    return "\n\n".join(parts)


def _title(stored: dict[str, Any]) -> str:
    made = stored["profile"]["guidance"]
    return f"### {stored['model']}, {stored['sampler']}, guidance {stored['guidance']:g}, profile of {made:g}"


class Lanes:
    """The lanes of one budget: values of a column by prompt."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.names = list(dict.fromkeys(row["lane"] for row in rows))
        self._rows = {(row["lane"], row["prompt"]): row for row in rows}

    def __call__(self, name: str, column: str, shared: str | None = None) -> np.ndarray[Any, Any]:
        """Of lane `name`, on the prompts that lane `shared` has as well."""
        common = sorted(prompt for lane, prompt in self._rows if lane == name)
        common = [prompt for prompt in common if (shared or name, prompt) in self._rows]
        values = (self._rows[name, prompt][column] for prompt in common)
        return np.array([IDENTICAL if value is None else value for value in values])

    def gain(self, name: str, over: str, most: float = np.inf) -> tuple[float, float, float]:
        """Mean difference of PSNR, and the ends of its 95 % interval; where lane `over` spent at most `most`
        evaluations.
        """
        apart = self(name, "psnr", over) - self(over, "psnr", name)
        apart = apart[self(over, "nfe", name) <= most]
        draws = np.random.default_rng(0).integers(len(apart), size=(10_000, len(apart)))
        low, high = np.quantile(apart[draws].mean(axis=1), (0.025, 0.975))
        return float(apart.mean()), float(low), float(high)

    def share(self, of: str) -> float:
        """Mean LPIPS of control as a share of that of lane `of`."""
        return float(self(CONTROL, "lpips", of).mean() / self(of, "lpips", CONTROL).mean())


def _table(nfe: int, lanes: Lanes) -> str:
    head = f"| {nfe} of 50 | clips | PSNR dB, mean (worst) | LPIPS | evaluated | over fewer steps, dB |"
    ordered = sorted(lanes.names, key=lambda name: -lanes(name, "psnr").mean())
    return "\n".join([head, "|---" * 6 + "|", *(_line(name, lanes) for name in ordered)])


def _line(name: str, lanes: Lanes) -> str:
    psnr, lpips, used = (lanes(name, column) for column in ("psnr", "lpips", "nfe"))
    spent = f"{used.mean():.1f}" + (f" ({used.min()} to {used.max()})" if np.ptp(used) else "")
    quality = f"{len(psnr)} | {psnr.mean():.1f} ({psnr.min():.1f}) | {lpips.mean():.2g}"
    return f"| {name} | {quality} | {spent} | {_gained(lanes.gain(name, FEWER)) if name != FEWER else ''} |"


def _gained(gain: tuple[float, float, float]) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*gain)


def targets(nfe: int, lanes: Lanes, guidance: float) -> Iterator[str]:
    """Which targets are met, with the numbers."""
    gain = lanes.gain(CONTROL, FEWER)
    yield _said(gain[0] >= GAINS[nfe], f"control {_gained(gain)} over fewer steps, wanted {GAINS[nfe]}")
    worst = [lanes(name, "psnr").min() for name in (CONTROL, FEWER)]
    yield _said(worst[0] >= worst[1], "worst clip {:.1f} against {:.1f}".format(*worst))
    older = [name for name in (LINEAR, HOLD) if name in lanes.names]
    if older:
        best = max(older, key=lambda name: lanes(name, "psnr").mean())
        gain = lanes.gain(CONTROL, best)
        yield _said(gain[2] >= 0, f"control {_gained(gain)} over the better of two, {best}")
        within = lanes(best, "nfe", CONTROL) <= nfe + 1
        if 1 < within.sum() < len(within):
            fair = _gained(lanes.gain(CONTROL, best, nfe + 1))
            yield f"the same on the {within.sum()} clips where that spent at most {nfe + 1}: {fair}"
    published = [name for name in PUBLISHED if name in lanes.names]
    shares = {name: lanes.share(name) for name in published}
    if shares:
        name = max(shares, key=lambda rule: shares[rule])
        said = f"LPIPS {shares[name]:.2g} of that of the best published, {name}, wanted 0.5"
        yield _said(shares[name] <= 0.5, said)
    for name in published if guidance == 4 else ():
        gain = lanes.gain(f"{name}{REPLAY}", name)
        yield _said(gain[0] >= REPAIRED, f"{name} {_gained(gain)} by replay, wanted {REPAIRED}")


def _said(met: bool, text: str) -> str:
    return f"{'met' if met else '**missed**'}: {text}"
