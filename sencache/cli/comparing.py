"""A comparison on the command line: run, saved and shown, also where it is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import typer
from rich.console import Console

from sencache.cli.console import print_lines
from sencache.cli.tables import LaneProgress, comparison_table, lane_notes
from sencache.comparison.compare import LaneStarted, StepDone, run_job
from sencache.comparison.job import Job
from sencache.comparison.report import Report
from sencache.comparison.saving import Saving, final_report
from sencache.errors import SencacheError
from sencache.models.model import Model


def compare_into(folder: Path, job: Job, models: Sequence[Model]) -> tuple[Report, BaseException | None]:
    """Run `job` on `models`: the report in `folder`, and what cut the comparison off, if anything; raises
    that where not even the full run had ended.
    """
    saving = Saving(folder, job.spec.fps, beside=models[0].device.type != "cpu")
    events = run_job(job, models)
    try:
        with saving, LaneProgress(Console(stderr=True)) as progress, closing(events):
            for event in events:
                saving.take(event)
                match event:
                    case LaneStarted(lane=lane, steps=steps):
                        progress.begin(lane, steps)
                    case StepDone(lane=lane, record=record):
                        progress.step(lane, record)
        return saving.ledger.report(), None
    except (Exception, KeyboardInterrupt) as error:
        why = str(error) if isinstance(error, SencacheError) else f"it was cut off by {type(error).__name__}"
        report = final_report(folder, saving.ledger.taken, why)
        if report is None:
            raise
        return report, error


def show(report: Report, cut: BaseException | None, out: Path, as_json: bool) -> None:
    """Print what came out, which is in `out`; of a comparison that was cut off only what there is, and raise
    what cut it off.
    """
    if cut is not None:
        names = ", ".join(lane.name for lane in report.lanes)
        typer.echo(f"cut off; report and videos of the lanes that had ended are in {out}: {names}", err=True)
        raise cut
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        Console().print(comparison_table(report))
        print_lines(lane_notes(report))
        typer.echo(f"report and videos are in {out}")
