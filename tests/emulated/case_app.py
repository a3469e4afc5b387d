"""The app's job and the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import emulation
import numpy as np
import pytest

from sencache.app import service
from sencache.app.events import Done
from sencache.app.request import make_request, plan_request
from sencache.app.space import offered_model, preselected_lanes
from sencache.cli import commands as cli
from sencache.comparison.report import load_report
from sencache.video import write_mp4

SMALL = ["--steps", "4", "--height", "32", "--width", "32", "--frames", "5"]


@pytest.mark.parametrize(("key", "devices"), [("tiny-wan", None), ("tiny-ltx", "cuda:1")])
def test_the_page_as_it_opens(key: str, devices: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own lanes and budget; on all GPUs unless one is named."""
    if devices:
        monkeypatch.setenv("SENCACHE_DEVICE", devices)
    methods = preselected_lanes(offered_model(key))
    size = {"height": 32, "width": 32, "frames": 9, "steps": 12}
    ask = make_request(model=key, prompt="a red circle", methods=methods, nfe=6, **size)
    *_, last = service.ComparisonService().run(plan_request(ask))
    service._load.cache_clear()
    assert isinstance(last, Done)


def run(*arguments: str, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(sys, "argv", ["sencache", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_comparison_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = ["--methods", "sencache,teacache,control", "--nfe", "3", "--prompt", "a red circle"]
    out = str(tmp_path / "out")
    assert run("compare", *SMALL, *lanes, "--device", "cuda:0,cuda:1", "--out", out, patch=monkeypatch) == 0
    report = load_report(tmp_path / "out" / "report.json")
    assert (report.model.device, report.model.dtype) == ("cuda:0,cuda:1", "float32")
    half = ["--device", "cuda", "--dtype", "bf16", "--out", str(tmp_path / "half")]
    assert run("compare", *SMALL, *lanes, *half, patch=monkeypatch) == 0
    assert load_report(tmp_path / "half" / "report.json").model.dtype == "bfloat16"


def test_a_calibration_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(tmp_path / "clip.mp4", np.random.default_rng(0).random((5, 32, 32, 3), np.float32), 8)
    clips = ["--method", "paper", "--clips", str(tmp_path)]
    made = ["--samples", "1", "--device", "cuda", "--out", str(tmp_path / "own.json")]
    assert run("calibrate", *SMALL, *clips, *made, patch=monkeypatch) == 0
    assert json.loads((tmp_path / "own.json").read_text())["sensitivity"]["alpha_x"]


@pytest.mark.parametrize("device", ["cuda:0,cuda:2", "rocm", "cuda,cuda:0"])
def test_a_device_that_is_not_there_is_one_sentence(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    asked = [*SMALL, "--prompt", "a", "--device", device, "--out", out]
    assert run("compare", *asked, patch=monkeypatch) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and not (tmp_path / "out").exists()
    known = {"rocm": "use cpu or cuda", "cuda,cuda:0": "given twice"}
    assert known.get(device, f"this machine has {emulation.GPUS} GPUs") in " ".join(said.split())
