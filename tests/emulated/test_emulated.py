"""The CUDA path on machines without a GPU: the files `case_*.py`, in a process of their own.

The emulated device replaces parts of torch for the whole process. To run one file by itself:
`python -m pytest tests/emulated/case_comparisons.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this torch is made for CPUs alone")

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in HERE.glob("case_*.py"))
Outcome = tuple[str, str]


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list]:
    """What became of every test in the files that this session asks for: names and what they said."""
    asked = {
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == Path(__file__) and hasattr(item, "callspec")
    }
    told = tmp_path_factory.mktemp("emulated") / "told.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={told}"]
    files = [str(HERE / f"{case}.py") for case in sorted(asked)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *files], capture_output=True, text=True, env=environment, cwd=HERE.parents[1]
    )
    assert told.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, list[Outcome]] = {case: [] for case in asked}
    for test in ElementTree.parse(told).iter("testcase"):
        failed = [*test.iter("failure"), *test.iter("error")]
        text = "\n".join(f"{test.get('name')}\n{each.text}" for each in failed)
        found[test.get("classname", "").rpartition(".")[2] or test.get("name", "")].append(
            (test.get("name", ""), text)
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_on_an_emulated_gpu(case: str, outcomes: Mapping[str, list[Outcome]]) -> None:
    assert outcomes[case], "no test of this file ran"
    failures = [text for _, text in outcomes[case] if text]
    assert not failures, "\n\n".join(failures)
