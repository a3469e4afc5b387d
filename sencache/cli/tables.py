"""What the command line shows: tables, and the lanes' progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from sencache.comparison.report import Report
from sencache.comparison.summary import COLUMNS, cells, notes
from sencache.profiles.profile import Profile
from sencache.trace import StepRecord

# What fits beside the lanes' names on a narrow terminal.
SHOWN = [COLUMNS[name] for name in ("cached", "speed-up", "LPIPS", "PSNR dB", "SSIM")]


def _table(**options: Any) -> Table:
    return Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption_justify="left", **options)


def comparison_table(report: Report) -> Table:
    """One row per lane: cost, and distance from the full run; the best value of each column in bold."""
    request = report.request
    table = _table(
        title=f"{report.model.id}, {request.steps} steps, seed {request.seed}, on {report.model.device}",
        caption="speed-up of denoising and distances against the full run; seconds: denoising, whole call",
        title_justify="left",
    )
    table.add_column("method", overflow="fold", min_width=12)
    for heading in ("NFE", *(column.name for column in SHOWN), "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for lane, row in zip(report.lanes, cells(report, SHOWN), strict=True):
        texts = [f"[bold green]{cell.text}[/]" if cell.best else cell.text for cell in row]
        times = f"{lane.denoise_seconds:.2f} {lane.seconds:.2f}"
        table.add_row(lane.name, f"{lane.evaluations}/{lane.steps}", *texts, times)
    for one in report.unfinished:
        table.add_row(one.name, *["–"] * (1 + len(SHOWN)), "missing")
    return table


def lane_notes(report: Report) -> list[str]:
    """What the lanes noted of their runs, and which are missing and why, one line each."""
    return [*notes(report), *map(str, report.unfinished)]


def models_table(models: Iterable[Mapping[str, Any]]) -> Table:
    """One row per model, as `listing.describe_model` gives it."""
    table = _table(
        caption="GB on the GPU: least, and with all parts on it; computed. here: weights on this machine"
    )
    for heading in ("model", "size", "GB", "on GPU", "here"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it is, licence", overflow="fold", min_width=20)
    for model in models:
        size, needed = "{width}x{height}x{frames}".format(**model), model["bytes"]
        gpu = "any"
        if "gpu_least" in needed:
            gpu = f"{needed['gpu_least'] / 1e9:.0f}-{needed['gpu_all_parts'] / 1e9:.0f}"
        weights, here = f"{needed['weights'] / 1e9:.1f}", "yes" if model["here"] else "no"
        table.add_row(model["key"], size, weights, gpu, here, f"{model['summary']}; {model['licence']}")
    return table


def _folding_table(widths: Mapping[str, int]) -> Table:
    """A column for each heading, at least so wide; on a narrow screen texts are folded, never cut."""
    table = _table()
    for heading, width in widths.items():
        table.add_column(heading, overflow="fold", min_width=width)
    return table


def profiles_table(profiles: Mapping[str, Profile]) -> Table:
    table = _folding_table({"profile": 0, "model": 0, "steps": 5, "serves": 9, "kind": 9, "sha256": 12})
    for name, profile in profiles.items():
        kind, digest, steps = profile.provenance.kind, profile.sha256[:12], str(profile.schedule.steps)
        table.add_row(name, profile.model.id, steps, ", ".join(profile.serves), kind, digest)
    return table


def cards_table(cards: Iterable[Mapping[str, Any]]) -> Table:
    """One row per card, as `gallery list --json` gives it."""
    table = _folding_table({"card": 12, "model": 8, "device": 4, "videos": 16, "prompt": 16})
    for card in cards:
        videos = f"{len(card['lanes'])} of {card['videos'] or 'a size not stated'}"
        table.add_row(card["name"], card["model"], card["device"], videos, escape(card["prompt"]))
    return table


def calibration_summary(profile: Profile) -> list[str]:
    """What a calibration found, in sentences: its cost, the spread over the videos, the presets' cost."""
    measured, table, fit = profile.calibration, profile.sensitivity, profile.teacache
    assert measured is not None and table is not None
    pairs = ((table.alpha_x_std, table.alpha_x), (table.alpha_t_std, table.alpha_t))
    spreads = [
        fmean(s / m if m else 0.0 for s, m in zip(spread, mean, strict=True))
        for spread, mean in pairs
        if spread is not None
    ]
    errors = [spread / max(table.samples - 1, 1) ** 0.5 for spread in spreads]
    lines = [
        f"{table.samples} videos in {measured.seconds:.1f} s, {measured.cost:.2f} times the evaluations of "
        "generating them",
        f"on average over the timesteps: spread over the videos {_shares(spreads, table.samples)}; "
        f"standard error of the means {_shares(errors, table.samples)}",
    ]
    if fit is not None and fit.monotone is False:
        lines.append(
            "TeaCache's polynomial is not monotone where it was fitted: a larger change of its signal does "
            "not always raise its distance"
        )
    for preset, methods in profile.preset_nfe.items():
        counts = (f"{name} {nfe.mean:g} ({nfe.min} to {nfe.max})" for name, nfe in methods.items())
        lines.append(f"preset {preset}, evaluations of {profile.schedule.steps}: {', '.join(counts)}")
    return lines


def _shares(shares: Sequence[float], samples: int) -> str:
    """Of alpha_x and alpha_t; one video tells of no spread."""
    if samples < 2:
        return "unknown"
    return "alpha_x {:.0%}, alpha_t {:.0%}".format(*shares)


class LaneProgress(Progress):
    """One bar per lane, with the steps computed so far; on a terminal only."""

    def __init__(self, console: Console) -> None:
        lane, computed = TextColumn("{task.description}"), TextColumn("computed {task.fields[computed]}")
        columns = lane, BarColumn(), MofNCompleteColumn(), computed, TimeElapsedColumn()
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bars: dict[str, TaskID] = {}
        self._computed: Counter[str] = Counter()

    def begin(self, lane: str, steps: int) -> None:
        self._bars[lane] = self.add_task(lane, total=steps, computed=0)

    def step(self, lane: str, record: StepRecord) -> None:
        self._computed[lane] += record.decision == "compute"
        self.update(self._bars[lane], advance=1, computed=self._computed[lane])
