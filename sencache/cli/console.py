"""Plain output of the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import typer


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_lines(lines: Iterable[str]) -> None:
    """One line each on standard output."""
    for line in lines:
        typer.echo(line)
