"""The Markdown tables of README and cards, made from the rows that the benchmarks write.

`tests/unit/test_published_numbers.py` holds the printed tables to the files in `results/`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

SHOWN_STEPS = (1, 2, 3, 5, 8, 13, 20, 30, 40, 45, 48, 49)


def quality(rows: Sequence[dict[str, Any]]) -> str:
    """One row per lane, best PSNR first; per budget evaluations, PSNR and LPIPS, as mean / worst clip."""
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    cells: dict[str, list[list[dict[str, Any]]]] = {}
    for lane in dict.fromkeys(row["lane"] for row in rows):
        cells[lane] = [[r for r in rows if (r["lane"], r["budget"]) == (lane, nfe)] for nfe in budgets]
    ordered = sorted(cells.items(), key=lambda item: -statistics.fmean(_column(item[1][0], "psnr")))
    heads = " | ".join(f"evaluated of 50, for {nfe} | PSNR dB | LPIPS" for nfe in budgets)
    head = f"| mean / worst of {len(ordered[0][1][0])} clips | {heads} |"
    line = "|---" * (3 * len(budgets) + 1) + "|"
    body = (f"| {lane} | {' | '.join(map(_cells, parts))} |" for lane, parts in ordered)
    return "\n".join([head, line, *body])


def _column(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [row[key] if row[key] is not None else float("inf") for row in rows]


def _cells(rows: Sequence[dict[str, Any]]) -> str:
    used, psnr, lpips = (_column(rows, key) for key in ("nfe", "psnr", "lpips"))
    reached = f"{min(used):.0f}" if min(used) == max(used) else f"{min(used):.0f} to {max(used):.0f}"
    quality = f"{statistics.fmean(psnr):.1f} / {min(psnr):.1f}"
    return f"{reached} | {quality} | {statistics.fmean(lpips):.4f} / {max(lpips):.4f}"


def changes(curve: Sequence[float]) -> str:
    """The change of the network's output at a few steps."""
    steps = [step for step in SHOWN_STEPS if step <= len(curve)]
    cells = " | ".join(f"{curve[step - 1]:.3f}" for step in steps)
    return f"| step | {' | '.join(map(str, steps))} |\n{'|---' * (len(steps) + 1)}|\n| change | {cells} |"


def replayed(results: Sequence[dict[str, Any]], budgets: Sequence[int]) -> str:
    """One row per lane that all results have, one column per result and budget: PSNR as mean / worst clip."""
    columns = [(result, budget) for result in results for budget in budgets]
    heads = " | ".join(f"{result['model']}, {budget}" for result, budget in columns)
    lanes = dict.fromkeys(row["lane"] for row in _rows(results[0]))
    shared = [lane for lane in lanes if all(_psnr(*column, lane) for column in columns)]
    shared.sort(key=lambda lane: -statistics.fmean(_psnr(*columns[0], lane)))
    body = (f"| {lane} | {' | '.join(_mean_worst(_psnr(*c, lane)) for c in columns)} |" for lane in shared)
    return "\n".join([f"| PSNR dB, evaluated of 50 | {heads} |", "|---" * (len(columns) + 1) + "|", *body])


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]


def _psnr(result: dict[str, Any], budget: int, lane: str) -> list[float]:
    return [row["psnr"] for row in _rows(result) if (row["lane"], row["budget"]) == (lane, budget)]


def _mean_worst(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f} / {min(values):.1f}"
