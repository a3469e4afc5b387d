"""The numbers of a comparison as a table that can be sorted; the best of each column is marked."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sencache.app.pages.theme import script, template
from sencache.app.palette import lane_label
from sencache.comparison.report import Report
from sencache.comparison.summary import COLUMNS, Cell, cells


def numbers_table(value: dict[str, Any] | None = None) -> gr.HTML:
    """The component; `value` is what `table_of` gives."""
    return gr.HTML(
        value or {"columns": [], "rows": []},
        html_template=template("numbers"),
        js_on_load=script("numbers"),
        elem_id="numbers",
        padding=False,
    )


def table_of(report: Report) -> dict[str, Any]:
    """Rows in the order of the lanes; a cell is [text, value to sort by or None, whether it is the best]."""
    rows = zip(report.lanes, cells(report, COLUMNS.values()), strict=True)
    return {
        "columns": [
            {"name": c.name[0].upper() + c.name[1:], "explained": c.explained, "better": c.better}
            for c in COLUMNS.values()
        ],
        "rows": [
            {"label": lane_label(lane.name), "method": lane.method, "cells": list(map(_sent, row))}
            for lane, row in rows
        ],
    }


def _sent(cell: Cell) -> list[Any]:
    # JSON has no infinity.
    return [cell.text, cell.value and min(cell.value, 1e9), cell.best]
