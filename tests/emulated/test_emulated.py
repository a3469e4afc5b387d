"""The CUDA path on machines without a GPU: the files `case_*.py`, in one process of their own.

The emulated device replaces parts of torch for a whole process. One file by itself:
`python -m pytest tests/emulated/case_comparisons.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in HERE.glob("case_*.py"))
Outcomes = Mapping[str, list[str]]


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What every test in the files that this session asks for has to say: nothing where it passed."""
    mine = [item for item in request.session.items if item.path == Path(__file__)]
    asked = {item.callspec.params["case"] for item in mine if isinstance(item, pytest.Function)}
    told = tmp_path_factory.mktemp("emulated") / "told.xml"
    options = ["-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={told}"]
    files = [str(HERE / f"{case}.py") for case in asked]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=HERE.parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert told.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    return _by_file(told, asked)


def _by_file(told: Path, asked: Collection[str]) -> Outcomes:
    found: dict[str, list[str]] = {case: [] for case in asked}
    for test in ElementTree.parse(told).iter("testcase"):
        # A file that cannot be imported is a test case with an error and without a class.
        (case,) = re.findall(r"case_\w+", f"{test.get('classname')} {test.get('name')}")[:1]
        failed = [*test.iter("failure"), *test.iter("error")]
        found[case].append("\n".join(f"{test.get('name')}\n{each.text}" for each in failed))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_on_an_emulated_gpu(case: str, outcomes: Outcomes) -> None:
    assert outcomes[case], "no test of this file ran"
    assert not any(outcomes[case]), "\n\n".join(filter(None, outcomes[case]))
