"""Figures of a profile: everything it holds is drawn, as it is."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from sencache.gram import Gram
from sencache.profiles.constants import ModelId, TeaCacheFit
from sencache.profiles.plots import overlay_figure, panels, profile_figure, profile_html, profile_svg
from sencache.profiles.profile import Profile

HOSTILE = '</script><img src=x onerror="alert(1)">&amp;'


def drawn(profile: Profile) -> dict[str, list[float]]:
    """The curves of the figure, without the bands, and the rows of tables, by their panel's title."""
    figure = profile_figure(profile)
    titles = [annotation.text for annotation in figure.layout.annotations]
    curves = [list(trace.y) if trace.type == "scatter" else trace.z for trace in shown(figure)]
    return dict(zip(titles, curves, strict=True))


def shown(figure: Any) -> list[Any]:
    return [trace for trace in figure.data if getattr(trace, "fill", None) is None]


def test_the_figure_holds_the_profiles_numbers(bundled_profile: Profile) -> None:
    table, ratios = bundled_profile.sensitivity, bundled_profile.magcache
    fit = bundled_profile.teacache
    assert table is not None and ratios is not None and fit is not None
    curves = list(drawn(bundled_profile).values())
    assert curves[:3] == [list(table.alpha_x), list(table.alpha_t), list(ratios.ratios)]
    low, high = fit.fitted_range or (0.0, 0.3)
    assert curves[3] == pytest.approx(np.polyval(fit.coefficients, np.linspace(low, high, 101)).tolist())
    assert bundled_profile.forecast is not None
    products = np.array(bundled_profile.forecast.table)
    sizes = np.sqrt(products.diagonal())
    assert np.allclose(np.array(curves[4]), products / np.outer(sizes, sizes))
    gram, expected = Gram(products, 1e-3), list(curves[5])
    assert expected == pytest.approx([np.median(gram.errors_after(gap)) for gap in range(1, 9)])


@pytest.mark.parametrize("part", ["sensitivity", "magcache", "teacache", "forecast"])
def test_what_a_profile_lacks_is_not_drawn(bundled_profile: Profile, part: str) -> None:
    assert set(drawn(bundled_profile.model_copy(update={part: None}))) < set(drawn(bundled_profile))
    parts = ("sensitivity", "magcache", "teacache", "forecast")
    nothing = bundled_profile.model_copy(update=dict.fromkeys(parts))
    assert not profile_figure(nothing).data
    assert ElementTree.fromstring(profile_svg(nothing)).tag.endswith("svg")


def test_the_band_is_one_standard_deviation(bundled_profile: Profile) -> None:
    table = bundled_profile.sensitivity
    assert table is not None
    band = next(trace for trace in profile_figure(bundled_profile).data if getattr(trace, "fill", None))
    upper, lower = np.split(np.array(band.y), 2)
    mean, std = np.array(table.alpha_x), np.array(table.alpha_x_std)
    assert upper == pytest.approx(mean + std)
    assert lower[::-1] == pytest.approx(np.maximum(mean - std, 0))


def test_an_overlay_has_a_curve_of_each_in_its_own_colour(bundled_profile: Profile) -> None:
    other = bundled_profile.model_copy(update={"model": ModelId(id="other", architecture="wan")})
    curves = shown(overlay_figure([bundled_profile, other]))
    assert len(curves) == 2 * len(panels(bundled_profile)) - 1, "one table is drawn"
    curves = [trace for trace in curves if trace.type == "scatter"]
    colours = {name: {c.line.color for c in curves if c.name == name} for name in ("tiny-wan", "other")}
    assert all(len(own) == 1 for own in colours.values()) and colours["tiny-wan"] != colours["other"]
    assert sum(bool(curve.showlegend) for curve in curves) == 2


@pytest.mark.parametrize(("coefficients", "monotone"), [((1.0, -0.2, 0.0), False), ((1.0, 0.2, 0.0), True)])
def test_a_polynomial_that_falls_says_so(
    bundled_profile: Profile, coefficients: tuple[float, ...], monotone: bool
) -> None:
    """x^2 - 0.2 x falls below 0.1, x^2 + 0.2 x nowhere above 0."""
    fit = TeaCacheFit(coefficients=coefficients, signal="time_projection", fitted_range=(0.05, 0.2))
    assert fit.monotone is monotone
    alone = bundled_profile.model_copy(update={"forecast": None})
    title = panels(alone.model_copy(update={"teacache": fit}))[-1].title
    assert ("not monotone" in title) is not monotone
    unknown = fit.model_copy(update={"fitted_range": None})
    assert unknown.monotone is None
    assert "range unknown" in panels(alone.model_copy(update={"teacache": unknown}))[-1].title


def test_names_from_elsewhere_stay_text_and_nothing_is_fetched(bundled_profile: Profile) -> None:
    model = ModelId.model_construct(id=HOSTILE, architecture="wan")
    hostile = bundled_profile.model_copy(update={"model": model})
    assert "<img" not in re.sub(r"<script.*?</script>", "", profile_html(hostile), flags=re.DOTALL)
    assert HOSTILE not in profile_html(hostile)
    ElementTree.fromstring(profile_svg(hostile))
    # And the page needs no network.
    page = profile_html(bundled_profile)
    assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="?https?:', page)
    assert bundled_profile.sha256 in page


def test_the_still_picture_follows_the_numbers(bundled_profile: Profile) -> None:
    """Sampling order from left to right; the peak of alpha_x is the highest point of its curve."""
    picture = ElementTree.fromstring(profile_svg(bundled_profile))
    curves = [element.get("points", "").split() for element in picture if element.tag.endswith("polyline")]
    table = bundled_profile.sensitivity
    assert table is not None and len(curves) == 5
    points = [tuple(map(float, point.split(","))) for point in curves[0]]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    heights = [-y for _, y in points]
    assert heights.index(max(heights)) == table.alpha_x.index(max(table.alpha_x))
