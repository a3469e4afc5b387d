"""What a profile looks like: the same panels as an interactive figure, a page, and a still picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sencache.profiles.constants import ForecastTable
from sencache.profiles.facts import facts, gap_errors
from sencache.profiles.profile import Profile

# One colour per profile of an overlay, told apart by colour-blind eyes on light and dark.
COLOURS = ("#0f766e", "#c2410c", "#6d28d9", "#a16207")
GREY = "#808890"
GRID = "rgba(128,136,144,0.2)"
# Cells a side of the still picture of a table; the interactive one has them all.
CELLS = 25
LONGEST_GAP = 8

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """A curve, and the band around it, lower and upper edge, where that is known."""

    x: Numbers
    y: Numbers
    band: tuple[Numbers, Numbers] | None = None


@dataclass(frozen=True)
class Panel:
    """One plot of one quantity: a curve, or a symmetric table of it from step to step. `falling`: x runs from
    high to low, as most models' timesteps.
    """

    title: str
    x_title: str
    line: Line | None = None
    table: tuple[Numbers, ...] = ()
    falling: bool = False

    @property
    def kind(self) -> str:
        """The same for all profiles; what follows differs."""
        return self.title.split(",")[0].split(":")[0]


def panels(profile: Profile) -> list[Panel]:
    """All that the profile holds: sensitivities over t, ratios, the polynomial, the forecast table."""
    found = []
    table, timesteps = profile.sensitivity, profile.schedule.timesteps
    if table is not None and timesteps is not None:
        t = timesteps[: len(table.alpha_x)]
        for name, per, values, spread in (
            ("alpha_x", "per change of the latent", table.alpha_x, table.alpha_x_std),
            ("alpha_t", "per unit of t", table.alpha_t, table.alpha_t_std),
        ):
            line = Line(t, values, _around(values, spread) if spread is not None else None)
            title = f"{name}, change of the {table.target} {per}"
            found.append(Panel(title, "t", line, falling=t[0] >= t[-1]))
    if profile.magcache is not None:
        ratios = profile.magcache.ratios
        line = Line(tuple(map(float, range(len(ratios)))), ratios)
        found.append(Panel("MagCache: norm of the residual over the step before", "step", line))
    if profile.teacache is not None:
        found.append(_polynomial(profile))
    if profile.forecast is not None:
        found += _forecast(profile.forecast)
    return found


def _around(values: Numbers, spread: Numbers) -> tuple[Numbers, Numbers]:
    pairs = list(zip(values, spread, strict=True))
    return tuple(max(y - s, 0.0) for y, s in pairs), tuple(y + s for y, s in pairs)


def _polynomial(profile: Profile) -> Panel:
    fit = profile.teacache
    assert fit is not None
    low, high = fit.fitted_range or (0.0, 0.3)
    x = tuple(low + (high - low) * k / 100 for k in range(101))
    known = "fitted range" if fit.fitted_range else "fitted range unknown"
    if fit.monotone is False:
        known += ", not monotone"
    title = f"TeaCache: expected change over the change of {fit.signal} ({known})"
    return Panel(title, "relative L1 change of the signal", Line(x, tuple(map(fit.rescale, x))))


def _forecast(measured: ForecastTable) -> list[Panel]:
    sizes = [row[i] ** 0.5 for i, row in enumerate(measured.table)]
    cosines = tuple(
        tuple(value / (size * other) for value, other in zip(row, sizes, strict=True))
        for row, size in zip(measured.table, sizes, strict=True)
    )
    alike = Panel(
        f"Forecast table: cosine between the {measured.target}s of two steps", "step", table=cosines
    )
    gaps = gap_errors(measured, range(1, LONGEST_GAP + 1))
    if not gaps:
        return [alike]
    low, middle, high = (tuple(quantiles[k] for quantiles in gaps.values()) for k in range(3))
    line = Line(tuple(map(float, gaps)), middle, (low, high))
    title = "Fitted forecast: expected relative error, median and 10 to 90 % of the steps"
    return [alike, Panel(title, "reuses in a row", line)]


def profile_figure(profile: Profile) -> Any:
    """A plotly figure with one panel above the other, for the app and for pages."""
    return overlay_figure([profile])


def overlay_figure(profiles: Sequence[Profile]) -> Any:
    """The same panels of several profiles in one plotly figure, a colour each; of tables the first."""
    from plotly.graph_objects import Figure, Heatmap
    from plotly.subplots import make_subplots

    drawn = [(profile, panels(profile)) for profile in profiles]
    kinds = list(dict.fromkeys(panel.kind for _, own in drawn for panel in own))
    if not kinds:
        return Figure()
    titles = {panel.kind: panel.title for _, own in reversed(drawn) for panel in own}
    figure = make_subplots(rows=len(kinds), cols=1, subplot_titles=[titles[kind] for kind in kinds])
    tables = set[str]()
    for (profile, own), colour in zip(drawn, COLOURS * len(drawn), strict=False):
        for panel in own:
            row = kinds.index(panel.kind) + 1
            if panel.line is not None:
                traces = _traces(panel.line, colour, profile.model.id, row == 1)
                figure.add_traces(traces, rows=row, cols=1)
            elif panel.kind not in tables:
                tables.add(panel.kind)
                colours = {"colorscale": "Viridis", "showscale": False, "name": profile.model.id}
                figure.add_trace(Heatmap(z=panel.table, **colours), row=row, col=1)
            reverse = "reversed" if panel.falling else True
            title = {"text": panel.x_title, "standoff": 4}
            figure.update_xaxes(title=title, autorange=reverse, row=row, col=1)
    figure.update_layout(
        template="none",
        height=230 * len(kinds) + 60,
        margin={"l": 56, "r": 16, "t": 40, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": GREY},
        showlegend=len(profiles) > 1,
        legend={"orientation": "h", "y": 1.06},
    )
    figure.update_xaxes(fixedrange=True, gridcolor=GRID, zeroline=False)
    figure.update_yaxes(fixedrange=True, gridcolor=GRID, rangemode="tozero", zeroline=False)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    return figure


def _traces(line: Line, colour: str, name: str, in_legend: bool) -> list[Any]:
    from plotly.graph_objects import Scatter

    own: dict[str, Any] = {"name": name, "legendgroup": name}
    curve = Scatter(x=line.x, y=line.y, line={"color": colour, "width": 2}, showlegend=in_legend, **own)
    if line.band is None:
        return [curve]
    lower, upper = line.band
    band = Scatter(
        x=[*line.x, *reversed(line.x)],
        y=[*upper, *reversed(lower)],
        fill="toself",
        fillcolor=f"rgba{(*bytes.fromhex(colour[1:]), 0.18)}",
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **own,
    )
    return [band, curve]


def profile_html(profile: Profile) -> str:
    """A page of its own, with plotly inside, that needs no network."""
    plot = profile_figure(profile).to_html(full_html=False, include_plotlyjs=True)
    rows = "".join(f"<dt>{label}</dt><dd>{escape(text)}</dd>" for label, text in facts(profile))
    name = escape(profile.model.id)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body{font:15px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}"
        "dt{color:#666}dd{margin:0;overflow-wrap:anywhere}</style>"
        f"<h1>{name}</h1><dl>{rows}</dl>{plot}</html>\n"
    )


WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 180, 56, 30, 34
RIGHT = WIDTH - 16


def profile_svg(profile: Profile) -> str:
    """The panels of a profile as one still picture, for its card."""
    return panels_svg(panels(profile))


def panels_svg(drawn: Sequence[Panel]) -> str:
    """Panels one above the other."""
    height = max(len(drawn), 1) * HEIGHT
    content = "".join(
        _svg_table(panel, top) if panel.line is None else _svg_line(panel, panel.line, top)
        for top, panel in zip(range(0, height, HEIGHT), drawn, strict=False)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui,sans-serif" font-size="12" fill="{GREY}">'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{content}</svg>\n'
    )


def _svg_line(panel: Panel, line: Line, top: float) -> str:
    lower, upper = line.band or (line.y, line.y)
    low = min(0.0, *lower)
    high = max(upper) or 1.0
    start, end = (max(line.x), min(line.x)) if panel.falling else (min(line.x), max(line.x))
    bottom = top + HEIGHT - BOTTOM

    def place(x: float, y: float) -> str:
        across = (x - start) / (end - start) if end != start else 0.5
        up = (y - low) / (high - low) if high != low else 0.0
        return f"{LEFT + across * (RIGHT - LEFT):.1f},{bottom - up * (HEIGHT - TOP - BOTTOM):.1f}"

    curve = " ".join(map(place, line.x, line.y))
    band = " ".join([*map(place, line.x, upper), *reversed([*map(place, line.x, lower)])])
    return (
        f'{_svg_frame(panel, top, (low, high), (start, end))}<polygon points="{band}" fill="{COLOURS[0]}" '
        f'fill-opacity=".18"/><polyline points="{curve}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>'
    )


def _svg_table(panel: Panel, top: float) -> str:
    steps = len(panel.table)
    shown = range(0, steps, -(-steps // CELLS))
    least = min(map(min, panel.table))
    wide, high = (RIGHT - LEFT) / len(shown), (HEIGHT - TOP - BOTTOM) / len(shown)
    cells = "".join(
        f'<rect x="{LEFT + across * wide:.1f}" y="{top + HEIGHT - BOTTOM - (up + 1) * high:.1f}" '
        f'width="{wide:.1f}" height="{high:.1f}" fill="{COLOURS[0]}" '
        f'fill-opacity="{(panel.table[i][j] - least) / ((1 - least) or 1):.2f}"/>'
        for up, i in enumerate(shown)
        for across, j in enumerate(shown)
    )
    return cells + _svg_frame(panel, top, (0, steps - 1), (0, steps - 1))


def _svg_frame(panel: Panel, top: float, y: tuple[float, float], x: tuple[float, float]) -> str:
    """Axes with the numbers at their ends, and the titles."""
    bottom = top + HEIGHT - BOTTOM
    labels = [
        (LEFT, top + 18, "start", panel.title),
        (LEFT - 6, top + TOP + 8, "end", f"{y[1]:.3g}"),
        (LEFT - 6, bottom, "end", f"{y[0]:.3g}"),
        (LEFT, bottom + 16, "start", f"{x[0]:.4g}"),
        (RIGHT, bottom + 16, "end", f"{x[1]:.4g}"),
        ((WIDTH + LEFT) / 2, bottom + 16, "middle", panel.x_title),
    ]
    texts = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>' for x, y, anchor, text in labels
    )
    return f'<path d="M{LEFT},{top + TOP}V{bottom}H{RIGHT}" fill="none" stroke="{GREY}"/>{texts}'
