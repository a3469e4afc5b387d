"""What a profile looks like: the same panels as an interactive figure, a page, and a still picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sencache.profiles.facts import facts
from sencache.profiles.profile import Profile

# One colour per profile of an overlay, told apart by colour-blind eyes on light and dark.
COLOURS = ("#0f766e", "#c2410c", "#6d28d9", "#a16207")
GREY = "#808890"


@dataclass(frozen=True)
class Line:
    """A curve, and the band of one standard deviation around it where that is known."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Panel:
    """One plot of one quantity. `falling`: x runs from high to low, as most models' timesteps."""

    title: str
    x_title: str
    line: Line
    falling: bool = False


def panels(profile: Profile) -> list[Panel]:
    """What the profile holds: sensitivities over t, MagCache's ratios, TeaCache's polynomial."""
    found = []
    table, timesteps = profile.sensitivity, profile.schedule.timesteps
    if table is not None and timesteps is not None:
        t = timesteps[: len(table.alpha_x)]
        down = t[0] >= t[-1]
        x, along_t = (
            Line(t, table.alpha_x, table.alpha_x_std),
            Line(t, table.alpha_t, table.alpha_t_std),
        )
        found.append(Panel(f"alpha_x, change of the {table.target} per change of the latent", "t", x, down))
        found.append(Panel(f"alpha_t, change of the {table.target} per unit of t", "t", along_t, down))
    if profile.magcache is not None:
        ratios = profile.magcache.ratios
        steps = tuple(float(step) for step in range(len(ratios)))
        found.append(
            Panel("MagCache: norm of the residual over the step before", "step", Line(steps, ratios))
        )
    if profile.teacache is not None:
        found.append(_polynomial(profile))
    return found


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


def profile_figure(profile: Profile) -> Any:
    """A plotly figure with one panel above the other, for the app and for pages."""
    return overlay_figure([profile])


def overlay_figure(profiles: Sequence[Profile]) -> Any:
    """The same panels of several profiles in one plotly figure, a colour each."""
    from plotly.graph_objects import Figure
    from plotly.subplots import make_subplots

    drawn = [(profile, panels(profile)) for profile in profiles]
    kinds = list(dict.fromkeys(_kind(panel) for _, own in drawn for panel in own))
    if not kinds:
        return Figure()
    titles = {_kind(panel): panel.title for _, own in reversed(drawn) for panel in own}
    figure = make_subplots(rows=len(kinds), cols=1, subplot_titles=[titles[kind] for kind in kinds])
    for (profile, own), colour in zip(drawn, COLOURS * len(drawn), strict=False):
        for panel in own:
            row = kinds.index(_kind(panel)) + 1
            figure.add_traces(_traces(panel.line, colour, profile.model.id, row == 1), rows=row, cols=1)
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
    figure.update_xaxes(fixedrange=True, gridcolor="rgba(128,136,144,0.2)", zeroline=False)
    figure.update_yaxes(
        fixedrange=True, gridcolor="rgba(128,136,144,0.2)", rangemode="tozero", zeroline=False
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    return figure


def _kind(panel: Panel) -> str:
    return panel.title.split(",")[0].split(":")[0]


def _traces(line: Line, colour: str, name: str, in_legend: bool) -> list[Any]:
    from plotly.graph_objects import Scatter

    own: dict[str, Any] = {"name": name, "legendgroup": name}
    curve = Scatter(x=line.x, y=line.y, line={"color": colour, "width": 2}, showlegend=in_legend, **own)
    if line.spread is None:
        return [curve]
    lower, upper = _band(line)
    band = Scatter(
        x=[*line.x, *reversed(line.x)],
        y=[*upper, *reversed(lower)],
        fill="toself",
        fillcolor=f"rgba{(*bytes.fromhex(colour[1:]), 0.18)}",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **own,
    )
    return [band, curve]


def _band(line: Line) -> tuple[list[float], list[float]]:
    pairs = list(zip(line.y, line.spread or (), strict=True))
    return [max(y - s, 0.0) for y, s in pairs], [y + s for y, s in pairs]


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


def profile_svg(profile: Profile) -> str:
    """The panels of a profile as one still picture, for its card."""
    return panels_svg(panels(profile))


def panels_svg(drawn: Sequence[Panel]) -> str:
    """Panels one above the other."""
    height = max(len(drawn), 1) * HEIGHT
    content = "".join(_svg_panel(panel, index * HEIGHT) for index, panel in enumerate(drawn))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui,sans-serif" font-size="12" fill="{GREY}">'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{content}</svg>\n'
    )


def _svg_panel(panel: Panel, top: float) -> str:
    line = panel.line
    lower, upper = _band(line) if line.spread is not None else (list(line.y), list(line.y))
    low = min(0.0, *lower)
    high = max(upper) or 1.0
    start, end = (max(line.x), min(line.x)) if panel.falling else (min(line.x), max(line.x))
    bottom = top + HEIGHT - BOTTOM

    def place(x: float, y: float) -> str:
        across = (x - start) / (end - start) if end != start else 0.5
        up = (y - low) / (high - low) if high != low else 0.0
        return f"{LEFT + across * (WIDTH - LEFT - 16):.1f},{bottom - up * (HEIGHT - TOP - BOTTOM):.1f}"

    curve = " ".join(map(place, line.x, line.y))
    band = " ".join([*map(place, line.x, upper), *reversed([*map(place, line.x, lower)])])
    frame = f'<path d="M{LEFT},{top + TOP}V{bottom}H{WIDTH - 16}" fill="none" stroke="{GREY}"/>'
    labels = [
        (LEFT, top + 18, "start", panel.title),
        (LEFT - 6, top + TOP + 8, "end", f"{high:.3g}"),
        (LEFT - 6, bottom, "end", f"{low:.3g}"),
        (LEFT, bottom + 16, "start", f"{start:.4g}"),
        (WIDTH - 16, bottom + 16, "end", f"{end:.4g}"),
        ((WIDTH + LEFT) / 2, bottom + 16, "middle", panel.x_title),
    ]
    texts = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>' for x, y, anchor, text in labels
    )
    return (
        f'{frame}<polygon points="{band}" fill="{COLOURS[0]}" fill-opacity=".18"/>'
        f'<polyline points="{curve}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>{texts}'
    )
