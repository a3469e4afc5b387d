"""Options of compare reach the report, which replaces the one before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import PROMPT, Program, compare_small, tree

from sencache.comparison.report import Report, load_report

pytestmark = pytest.mark.usefixtures("one_thread")


def test_json_output_is_the_report(run: Program, tmp_path: Path) -> None:
    answer = compare_small(run, tmp_path / "out", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (tmp_path / "out" / "report.json").read_text(encoding="utf-8")
    report = Report.model_validate_json(answer.out)
    assert [lane.name for lane in report.lanes] == ["none", "fixed", "fewer-steps"]
    assert report.digest == report.content_digest()


def test_every_option_reaches_the_request(run: Program, tmp_path: Path) -> None:
    answer = compare_small(
        run,
        tmp_path,
        *("--negative-prompt", "blur", "--seed", "7", "--guidance", "2.5", "--height", "32", "--width", "48"),
        *("--frames", "5", "--nfe", "2", "--set", "fixed.target=output", "--json"),
    )
    report = Report.model_validate_json(answer.out)
    assert report.request.model_dump() == {
        "prompt": PROMPT,
        "negative_prompt": "blur",
        "seed": 7,
        "steps": 3,
        "height": 32,
        "width": 48,
        "frames": 5,
        "guidance_scale": 2.5,
        "nfe": 2,
        "preset": None,
    }
    fixed = report.lanes[1]
    assert (fixed.target, fixed.config["target"], fixed.nfe) == ("output", "output", 2)


def test_a_preset_reaches_the_request(run: Program, tmp_path: Path) -> None:
    report = Report.model_validate_json(compare_small(run, tmp_path, "--preset", "fast", "--json").out)
    assert (report.request.nfe, report.request.preset) == (None, "fast")


def test_a_second_comparison_replaces_the_first(run: Program, tmp_path: Path) -> None:
    """What a lane notes is printed; text of any language survives."""
    (tmp_path / "notes.txt").write_text("mine")
    prompt = "ein roter Kreis, 赤い円 \N{LARGE RED CIRCLE} [bold]x[/]"
    answer = compare_small(run, tmp_path, "--methods", "easycache")
    assert "\neasycache: its settings force each of the 3 steps to be computed" in answer.out
    assert compare_small(run, tmp_path, "--methods", "easycache", "--seed", "2", "--prompt", prompt).code == 0
    request = load_report(tmp_path / "report.json").request
    assert (request.seed, request.prompt) == (2, prompt)
    assert tree(tmp_path) == {"notes.txt", "report.json", "none.mp4", "easycache.mp4", "fewer-steps.mp4"}
    assert run("verify", tmp_path / "report.json").code == 0
