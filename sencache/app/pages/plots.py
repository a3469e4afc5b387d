"""Figures of one comparison: decisions and scores over the steps, drift, the profile it walked along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sencache.app.palette import lane_label, looks
from sencache.comparison.report import Lane, Report
from sencache.profiles.plots import GREY, profile_figure
from sencache.profiles.profile import Profile

GRID = "rgba(128,136,144,0.2)"
REUSED, COMPUTED = "rgba(15,118,110,0.22)", "#0f766e"
FONT = "Inter, system-ui, sans-serif"
ROW_PIXELS, SCORE_PIXELS = 24, 300
DASHES = ("solid", "dot", "dash")
SMALLEST = 1e-6


def timeline_figure(report: Report) -> Any:
    """Above, all decisions as one heatmap; below, each lane's score over its tolerance, where 1 is the limit.

    Fewer steps is stretched over the same width. Scores are drawn where the method took one.
    """
    from plotly.subplots import make_subplots

    height = ROW_PIXELS * (2 + len(report.lanes))
    whole = height + SCORE_PIXELS
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.14,
        row_heights=[height / whole, SCORE_PIXELS / whole],
        subplot_titles=["Decisions: dark computed, light reused", "Score over tolerance; reused up to 1"],
    )
    _add_decisions(figure, report)
    _add_scores(figure, report)
    figure.add_hline(y=1, line={"color": GREY, "width": 1.5, "dash": "dash"}, row=2, col=1)
    figure.update_yaxes(type="log", dtick=1, row=2, col=1)
    figure.update_xaxes(title={"text": "step", "standoff": 4}, row=2, col=1)
    return _style(figure, whole + 110, left=118)


def _add_decisions(figure: Any, report: Report) -> None:
    # One heatmap: several of one row each crash the browser's plotly.
    lanes, steps = report.lanes[::-1], report.request.steps
    # A lane's records at the same parts of the way.
    rows = [[lane.trace[step * lane.steps // steps] for step in range(steps)] for lane in lanes]
    figure.add_heatmap(
        z=[[int(record.decision == "compute") for record in row] for row in rows],
        x=list(range(1, steps + 1)),
        y=[lane_label(lane.name) for lane in lanes],
        text=[[record.reason.replace("_", " ") for record in row] for row in rows],
        hovertemplate="%{y}, step %{x}: %{text}<extra></extra>",
        colorscale=[[0, REUSED], [1, COMPUTED]],
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=1,
        ygap=3,
        row=1,
        col=1,
    )


def _add_scores(figure: Any, report: Report) -> None:
    for lane, dash in _with_dashes(report.lanes):
        ratios = [(r, r.score / r.tolerance) for r in lane.trace if r.score is not None and r.tolerance]
        symbols = ["circle" if r.decision == "compute" else "circle-open" for r, _ in ratios]
        if ratios:
            figure.add_scatter(
                x=[record.step + 1 for record, _ in ratios],
                y=[max(ratio, SMALLEST) for _, ratio in ratios],
                mode="lines+markers",
                name=lane_label(lane.name),
                line={"color": looks()[lane.method].light, "width": 1.5, "dash": dash},
                marker={"size": 6, "symbol": symbols},
                hovertemplate="step %{x}: %{y:.2f}× the tolerance<extra>%{fullData.name}</extra>",
                row=2,
                col=1,
            )


def _with_dashes(lanes: Iterable[Lane]) -> Iterator[tuple[Lane, str]]:
    """A dash for every further lane of a method, which has one colour."""
    seen: dict[str, int] = {}
    for lane in lanes:
        count = seen.get(lane.method, 0)
        yield lane, DASHES[count % len(DASHES)]
        seen[lane.method] = count + 1


def drift_figure(report: Report) -> Any:
    """RMS difference of each lane's latent from the full run's, after the same step; a log axis."""
    from plotly.graph_objects import Figure

    figure = Figure()
    for lane, dash in _with_dashes(report.lanes):
        drifted = [r for r in lane.trace if r.drift]
        if drifted and lane.metrics is not None:
            figure.add_scatter(
                x=[record.step + 1 for record in drifted],
                y=[record.drift for record in drifted],
                name=lane_label(lane.name),
                line={"color": looks()[lane.method].light, "width": 2, "dash": dash},
                hovertemplate="step %{x}: %{y:.3g}<extra>%{fullData.name}</extra>",
            )
    figure.update_yaxes(type="log", title={"text": "drift from the full run", "standoff": 8}, dtick=1)
    figure.update_xaxes(title={"text": "step", "standoff": 4})
    return _style(figure, 520, left=66, top=12)


def walked_figure(profile: Profile, report: Report) -> Any:
    """The profile's sensitivities, with the steps that the SenCache lane computed marked on them."""
    figure = profile_figure(profile.model_copy(update={"magcache": None, "teacache": None}))
    figure.update_layout(font={"family": FONT})
    lane = next((lane for lane in report.lanes if lane.method == "sencache"), None)
    if lane is None or profile.sensitivity is None:
        return figure
    table = profile.sensitivities()
    computed = [r.timestep for r in lane.trace if r.decision == "compute"]
    for row in (1, 2):
        figure.add_scatter(
            x=computed,
            y=[table.at(t)[row - 1] for t in computed],
            mode="markers",
            name=f"computed by {lane_label(lane.name)}",
            marker={"color": "#c2410c", "size": 7, "symbol": "circle-open", "line": {"width": 2}},
            showlegend=False,
            hovertemplate="computed at t %{x}: %{y:.4g}<extra></extra>",
            row=row,
            col=1,
        )
    return figure


def _style(figure: Any, height: int, left: int, top: int = 44) -> Any:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": left, "r": 12, "t": top, "b": 52},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 12, "color": GREY},
        legend={"orientation": "h", "y": -0.12, "yanchor": "top"},
    )
    figure.update_xaxes(fixedrange=True, gridcolor=GRID, zeroline=False)
    figure.update_yaxes(fixedrange=True, gridcolor=GRID, zeroline=False)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    return figure
