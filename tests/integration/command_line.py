"""The command line as its users call it, in this process or in one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sencache.cli import commands as cli
from sencache.policies.loading import load_profile
from sencache.profiles.library import bundled_profile
from sencache.profiles.profile import Profile

ROOT = Path(cli.__file__).parents[1]
PROMPT = "a red circle moving right"
# One thread each: programs that share the cores would otherwise wait for one another.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}


@dataclass
class Answer:
    """What one command gave."""

    code: Any
    out: str
    err: str


class Program:
    """`python -m sencache`, in this process."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capsys = patch, capsys

    def __call__(self, *arguments: str) -> Answer:
        self.patch.setattr(sys, "argv", ["sencache", *map(str, arguments)])
        self.capsys.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        return Answer(code, *self.capsys.readouterr())


def program(*arguments: str) -> Answer:
    """The same as a process of its own."""
    command = [sys.executable, "-m", "sencache", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    return Answer(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def compare_small(run: Program, out: Path, *more: str) -> Answer:
    """Three steps of a small clip, in full, halved, and with fewer steps."""
    small = ("--prompt", PROMPT, "--steps", "3", "--frames", "5", "--methods", "fixed")
    return run("compare", *small, "--out", out, *more)


LONG = "x" * 10_000


def assert_one_line(answer: Answer, message: str) -> None:
    """Refused: nothing printed but one line on the error stream, and exit code 2."""
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert re.fullmatch(r"error: [^\n]+\n", answer.err)


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def bundled() -> Profile:
    return load_profile(bundled_profile("tiny-wan.unipc-50"))
