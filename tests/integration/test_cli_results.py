"""What compare and calibrate write, and that verify, compare and the schemas take it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import (
    PROMPT,
    Answer,
    Program,
    assert_one_line,
    bundled,
    compare_small,
    program,
    tree,
    written,
)

from sencache.comparison.report import Report, load_report
from sencache.policies.loading import load_profile
from sencache.video import read_mp4

METHODS = "none,fewer-steps,fixed,sencache,sencache:repair=replay,magcache,teacache,easycache,control"
pytestmark = pytest.mark.usefixtures("one_thread")


# ---- the comparison of the README


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared") / "out"


@pytest.fixture(scope="module")
def compared(folder: Path) -> Answer:
    lanes = ("--methods", METHODS, "--steps", "50", "--seed", "0")
    return program("compare", "--model", "tiny-wan", "--prompt", PROMPT, *lanes, "--out", str(folder))


@pytest.fixture(scope="module")
def report(compared: Answer, folder: Path) -> Report:
    return load_report(folder / "report.json")


def test_compare_succeeds_and_shows_one_row_per_lane(compared: Answer, report: Report, folder: Path) -> None:
    assert (compared.code, compared.err) == (0, "")
    rows = {line.split()[0]: line for line in compared.out.splitlines() if line.strip()}
    for lane in report.lanes:
        assert f" {lane.nfe}/{lane.steps} " in rows[lane.name]
        assert f" {lane.speedup:.2f}× " in rows[lane.name]
    assert compared.out.rstrip().endswith(str(folder))


def test_compare_writes_the_report_and_one_video_per_lane(report: Report, folder: Path) -> None:
    assert [lane.name for lane in report.lanes] == METHODS.split(",")
    assert report.request.model_dump() == {
        "prompt": PROMPT,
        "negative_prompt": "",
        "seed": 0,
        "steps": 50,
        "height": 64,
        "width": 64,
        "frames": 17,
        "guidance_scale": 4.0,
        "nfe": None,
        "preset": "slow",
    }
    assert tree(folder) == {"report.json", *(str(lane.video) for lane in report.lanes)}
    assert len(tree(folder)) == len(report.lanes) + 1
    for lane in report.lanes:
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}\.mp4", str(lane.video)), "safe on every system"
        frames = read_mp4(folder / str(lane.video))
        assert frames.shape == (17, 256, 256, 3) and frames.std() > 1


def test_the_preset_halves_the_cost(report: Report) -> None:
    """As the profile says of each method: exactly where the schedule is fixed, else within its spread."""
    expected = bundled().preset_nfe["slow"]
    assert all(abs(nfe.mean - 25) < 0.5 for nfe in expected.values())
    for lane in report.lanes:
        if lane.method in expected:
            assert abs(lane.nfe - expected[lane.method].mean) <= 3 * expected[lane.method].std, lane.name
    fewer = next(lane for lane in report.lanes if lane.method == "fewer-steps")
    assert fewer.nfe == next(lane.nfe for lane in report.lanes if lane.method == "sencache")


def test_verify_accepts_it(folder: Path, run: Program, report: Report) -> None:
    records = sum(len(lane.trace) for lane in report.lanes)
    answer = run("verify", folder / "report.json")
    assert (answer.code, answer.err, answer.out) == (0, "", f"9 lanes, {records} decisions: all hold\n")
    told = json.loads(run("verify", folder / "report.json", "--json").out)
    assert told == {"ok": True, "lanes": 9, "records": records, "problems": []}


def test_verify_finds_a_change(compared: Answer, folder: Path, tmp_path: Path, run: Program) -> None:
    text = (folder / "report.json").read_text(encoding="utf-8")
    (tmp_path / "forged.json").write_text(text.replace('"decision": "reuse"', '"decision": "compute"', 1))
    answer = run("verify", tmp_path / "forged.json")
    assert (answer.code, answer.err) == (1, "")
    assert "fixed: step 1: decision is compute on record, reuse when replayed\n" in answer.out
    assert "the digest is not that of the content" in answer.out


def test_verify_wants_the_profile_of_the_run(
    compared: Answer, folder: Path, run: Program, small: Path
) -> None:
    answer = run("verify", folder / "report.json", "--profile", small)
    assert answer.code == 2
    assert_one_line(answer, "give the profile of the run")


# ---- calibrate


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of two videos of six steps, in a folder that has to be made."""
    path = tmp_path_factory.mktemp("calibrated") / "new" / "small.json"
    answer = program("calibrate", "--steps", "6", "--samples", "2", "--out", str(path))
    assert (answer.code, answer.err) == (0, "")
    *said, last = answer.out.splitlines()
    sha256 = load_profile(path).sha256
    assert last == f"wrote {path}, sha256 {sha256}; single results are in {path}.samples"
    assert said[0].startswith("2 videos in") and "1.42 times the evaluations" in said[0]
    assert any(line.startswith("preset slow, evaluations of 6: fixed 3 (3 to 3)") for line in said)
    return path


def test_calibrate_writes_a_profile(small: Path, run: Program) -> None:
    profile = load_profile(small)
    assert (profile.schedule.steps, profile.model.id, profile.provenance.kind) == (6, "tiny-wan", "measured")
    assert profile.calibration is not None and profile.calibration.seeds == (1000, 1001)
    assert set(profile.presets) == {"slow", "fast"}
    folder = f"{small.name}.samples"
    assert {path for path in tree(small.parent) if not path.startswith(f"{folder}/")} <= {small.name, folder}
    assert sum(path.endswith(".safetensors") for path in tree(small.parent)) == 2
    answer = run("profiles", "validate", small)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{small} is a valid profile of tiny-wan, sha256 {profile.sha256}\n"


def test_a_calibrated_profile_serves_compare_and_verify(small: Path, run: Program, tmp_path: Path) -> None:
    methods = ("--frames", "17", "--methods", "sencache:tolerance=1,magcache,teacache", "--steps", "6")
    assert compare_small(run, tmp_path, *methods, "--profile", small).code == 0
    sha256 = load_profile(small).sha256
    for lane in load_report(tmp_path / "report.json").lanes[1:4]:
        assert lane.profile is not None
        assert (lane.profile.path, lane.profile.sha256, lane.notes) == ("small.json", sha256, ())
    answer = run("verify", tmp_path / "report.json", "--profile", small)
    assert answer.code == 0 and answer.out.endswith("all hold\n")
    assert_one_line(run("verify", tmp_path / "report.json"), "(small.json); give the file with --profile")


def test_calibrate_takes_prompts_from_a_file(run: Program, tmp_path: Path) -> None:
    prompts = written(tmp_path / "prompts.txt", "a blue square\n\n  a green star \n")
    out = tmp_path / "profile.json"
    options = ("--steps", "2", "--samples", "3", "--seed", "5")
    assert run("calibrate", *options, "--prompts", prompts, "--out", out).code == 0
    calibration = load_profile(out).calibration
    assert calibration is not None
    assert (calibration.prompts, calibration.seeds) == (("a blue square", "a green star"), (5, 6, 7))


def test_calibrate_on_another_schedule_and_target(run: Program, tmp_path: Path) -> None:
    out = tmp_path / "euler.json"
    euler = ("--steps", "4", "--frames", "9", "--scheduler", "euler", "--shift", "5")
    options = (*euler, "--samples", "1", "--target", "residual", "--guidance", "1")
    assert run("calibrate", *options, "--out", out).code == 0
    profile = load_profile(out)
    schedule = profile.schedule
    assert (schedule.scheduler, schedule.config["shift"]) == ("FlowMatchEulerDiscreteScheduler", 5)
    assert profile.sensitivity is not None and profile.sensitivity.target == "residual"
    assert profile.shape is not None and (profile.shape.frames, profile.guidance_scale) == (9, 1.0)
    assert compare_small(run, tmp_path, *euler, "--methods", "sencache", "--profile", out).code == 0
    report = load_report(tmp_path / "report.json")
    assert report.model.scheduler == "FlowMatchEulerDiscreteScheduler shift 5"
    assert report.lanes[1].notes == ()
