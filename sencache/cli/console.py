"""Plain output of the command line, and its progress bars."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def progress(*columns: Any) -> Progress:
    """Bars on standard error, where that is a terminal; rich's usual columns unless others are given."""
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
