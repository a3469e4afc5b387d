"""The tables of README and cards are those of the measurements kept in `tests/benchmarks/results`."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sencache.models.spec import ASSETS
from training import scoring

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
BUNDLED = sorted(path.name for path in ASSETS.glob("tiny-*"))


def _tables() -> Any:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tests" / "benchmarks" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _card(model: str) -> str:
    return (ASSETS / model / "README.md").read_text()


def test_the_readme_shows_quality_at_equal_cost_as_measured() -> None:
    results = [_result(f"replay-{model}") for model in BUNDLED]
    assert _tables().replayed(results, (25, 15)) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("model", BUNDLED)
def test_a_card_shows_its_testbed_as_measured(model: str) -> None:
    result = _result(f"testbed-{model}")
    clips = Counter((row["lane"], row["budget"]) for row in result["rows"])
    assert result["model"] == model and set(clips.values()) == {32}
    assert _tables().changes(result["changes"]) in _card(model)
    assert _tables().quality(result["rows"]) in _card(model)


@pytest.mark.parametrize("model", BUNDLED)
def test_a_card_shows_its_check_as_measured(model: str) -> None:
    result = _result(f"check-{model}")
    assert f"{result.pop('psnr'):.1f} dB on held-out clips" in _card(model)
    rows = [(name, scoring.Score(**counts)) for name, counts in result.items()]
    for line in scoring.table(rows).splitlines():
        assert line in _card(model)
    assert rows[0][1].of["everything"] == 200
