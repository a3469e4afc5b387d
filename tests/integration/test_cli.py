"""The command line as its users meet it: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from diffusers import UniPCMultistepScheduler

from sencache import cli
from sencache.library import bundled_profile
from sencache.profile import Profile, load_profile, parse_profile
from sencache.report import Report, load_report
from sencache.video import read_mp4

ROOT = Path(cli.__file__).parents[1]
PROMPT = "a red circle moving right"
METHODS = "none,fewer-steps,fixed,sencache,sencache:forecast=linear,magcache,teacache,easycache,control"
HEAVY = {"torch", "diffusers", "transformers", "numpy", "lpips", "torchvision", "gradio", "accelerate"}
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


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    monkeypatch.setenv("COLUMNS", "120")
    return Program(monkeypatch, capsys)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and two test runs at once would fight over the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded is work done for nothing."""
    monkeypatch.setattr("sencache.models.model.load", lambda *_: pytest.fail("the model was loaded"))


def program(*arguments: str) -> Answer:
    """The same as a process of its own."""
    command = [sys.executable, "-m", "sencache", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    return Answer(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


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
        assert f" {lane.speedup:.2f}x " in rows[lane.name]
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


def test_file_names_are_safe_on_every_system(report: Report) -> None:
    for lane in report.lanes:
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}\.mp4", str(lane.video))


def test_the_videos_play(report: Report, folder: Path) -> None:
    for lane in report.lanes:
        frames = read_mp4(folder / str(lane.video))
        assert frames.shape == (17, 256, 256, 3) and frames.std() > 1


def test_the_preset_halves_the_cost(report: Report) -> None:
    """As the profile says of each method: exactly where the schedule is fixed, else within its spread."""
    expected = bundled().preset_nfe["slow"]
    assert all(nfe.mean == 25 for nfe in expected.values())
    for lane in report.lanes:
        if lane.method in expected:
            assert abs(lane.nfe - 25) <= 3 * expected[lane.method].std, lane.name
    fewer = next(lane for lane in report.lanes if lane.method == "fewer-steps")
    assert fewer.nfe == next(lane.nfe for lane in report.lanes if lane.method == "sencache")


def test_verify_accepts_it(compared: Answer, folder: Path, run: Program) -> None:
    answer = run("verify", folder / "report.json")
    assert (answer.code, answer.err) == (0, "")
    assert re.fullmatch(r"9 lanes, \d+ decisions: all hold\n", answer.out)


def test_verify_finds_a_change(compared: Answer, folder: Path, tmp_path: Path) -> None:
    text = (folder / "report.json").read_text(encoding="utf-8")
    (tmp_path / "forged.json").write_text(text.replace('"decision": "reuse"', '"decision": "compute"', 1))
    answer = program("verify", str(tmp_path / "forged.json"))
    assert (answer.code, answer.err) == (1, "")
    assert "fixed: step 1: decision is compute on record, reuse when replayed\n" in answer.out
    assert "the digest is not that of the content" in answer.out


def test_verify_speaks_json(compared: Answer, folder: Path, run: Program, report: Report) -> None:
    answer = run("verify", folder / "report.json", "--json")
    records = sum(len(lane.trace) for lane in report.lanes)
    assert json.loads(answer.out) == {"ok": True, "lanes": 9, "records": records, "problems": []}


def test_verify_wants_the_profile_of_the_run(
    compared: Answer, folder: Path, run: Program, small: Path
) -> None:
    answer = run("verify", folder / "report.json", "--profile", small)
    assert answer.code == 2
    assert_one_line(answer, "give the profile of the run")


# ---- small comparisons


def compare_small(run: Program, out: Path, *more: str) -> Answer:
    """Three steps of a small clip, in full, halved, and with fewer steps."""
    small = ("--prompt", PROMPT, "--steps", "3", "--frames", "5", "--methods", "fixed")
    return run("compare", *small, "--out", out, *more)


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
        *("--frames", "5", "--preset", "fast", "--nfe", "2", "--set", "fixed.target=output", "--json"),
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
        "preset": "fast",
    }
    fixed = report.lanes[1]
    assert (fixed.target, fixed.config["target"], fixed.nfe) == ("output", "output", 2)


def test_a_budget_alone_takes_no_preset(run: Program, tmp_path: Path) -> None:
    report = Report.model_validate_json(compare_small(run, tmp_path, "--nfe", "2", "--json").out)
    assert (report.request.nfe, report.request.preset) == (2, None)


def test_a_second_comparison_replaces_the_first(run: Program, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for seed in ("1", "2"):
        assert compare_small(run, tmp_path, "--seed", seed).code == 0
    assert load_report(tmp_path / "report.json").request.seed == 2
    assert tree(tmp_path) == {"notes.txt", "report.json", "none.mp4", "fixed.mp4", "fewer-steps.mp4"}


def test_text_of_any_language_survives(run: Program, tmp_path: Path) -> None:
    prompt = "ein roter Kreis, 赤い円 \N{LARGE RED CIRCLE} [bold]x[/]"
    answer = compare_small(run, tmp_path, "--prompt", prompt)
    assert answer.code == 0
    assert load_report(tmp_path / "report.json").request.prompt == prompt
    assert run("verify", tmp_path / "report.json").code == 0


# ---- refused

LONG = "x" * 10_000
REFUSED: dict[str, tuple[list[str], str]] = {
    "unknown model": (["--model", "sora"], "unknown model 'sora'; choose from tiny-wan"),
    "unknown method": (["--methods", "none,magic"], "unknown method 'magic'; choose from none, fewer-steps"),
    "method twice": (["--methods", "fixed,fixed"], "lane 'fixed' is given twice"),
    "unknown setting": (["--methods", "fixed:speed=9"], "fixed cannot take 'speed=9'"),
    "set: no dot": (["--set", "fixed"], "cannot read the setting 'fixed'; write it as method.key=value"),
    "set: no value": (["--set", "fixed.interval"], "fixed cannot take 'interval'; write key=value"),
    "set: empty": (["--set", ""], "cannot read the setting ''"),
    "set: unknown method": (["--set", "magic.a=1"], "unknown method 'magic'"),
    "set: no such lane": (["--set", "control.tolerance=1"], "no lane runs it; add it to the methods"),
    "no steps": (["--steps", "0"], "steps is 0"),
    "5000 steps": (["--steps", "5000"], "steps is 5000"),
    "negative steps": (["--steps", "-1"], "steps is -1"),
    "16 frames": (["--frames", "16"], "cannot make 16 frames; use 4k+1 up to 81, for example 17"),
    "negative frames": (["--frames", "-3"], "cannot make -3 frames; use 4k+1 up to 81, for example 1"),
    "no frames": (["--frames", "0"], "cannot make 0 frames"),
    "too many frames": (["--frames", "85"], "cannot make 85 frames; use 4k+1 up to 81, for example 81"),
    "height 63": (
        ["--height", "63"],
        "height of 63 pixels; use a multiple of 16 from 32 to 256, for example 64",
    ),
    "too small to measure": (["--height", "16"], "height of 16 pixels; use a multiple of 16 from 32 to 256"),
    "height 0": (["--height", "0"], "height of 0 pixels"),
    "width -16": (["--width", "-16"], "width of -16 pixels"),
    "width 100000": (
        ["--width", "100000"],
        "width of 100000 pixels; use a multiple of 16 from 32 to 256",
    ),
    "negative seed": (["--seed", "-1"], "seed is -1"),
    "huge seed": (["--seed", str(2**63)], f"seed is {2**63}"),
    "guidance nan": (["--guidance", "nan"], "guidance is nan"),
    "guidance inf": (["--guidance", "inf"], "guidance is inf"),
    "negative guidance": (["--guidance", "-1"], "guidance is -1.0"),
    "no prompt": (["--prompt", ""], "the prompt is empty"),
    "blank prompt": (["--prompt", " \n\t"], "the prompt is empty"),
    "long prompt": (["--prompt", LONG], "the prompt has 10,000 characters; shorten it to at most 2,000"),
    "long negative": (["--negative-prompt", LONG], "the negative prompt has 10,000 characters"),
    "nfe 0": (["--nfe", "0"], "nfe is 0"),
    "nfe above steps": (["--nfe", "4"], "a budget of 4 evaluations exceeds the 3 steps"),
    "no text": (["--prompt", "\udcff"], "is not valid text"),
    "unknown device": (["--device", "tpu"], "unknown device 'tpu'; use cpu or cuda"),
    "device that cannot serve": (["--device", "meta"], "unknown device 'meta'; use cpu or cuda"),
    "no such profile": (["--profile", "missing.json"], "cannot read profile missing.json (No such file"),
    "a folder as profile": (["--profile", "/"], "cannot read profile / (Is a directory)"),
}
# Found when the lanes are planned.
REFUSED |= {
    "unknown preset": (["--preset", "warp"], "unknown preset 'warp'; this model has: slow, fast"),
    "preset without use": (["--methods", "none", "--preset", "warp"], "unknown preset 'warp'"),
    "not a number": (["--set", "fixed.interval=often"], "fixed.interval is 'often'"),
    "not finite": (["--methods", "control:tolerance=nan"], "control.tolerance is 'nan'"),
    "out of range": (["--methods", "fixed:interval=0"], "fixed.interval is '0'"),
    "too large for a step": (["--methods", "fixed:steps=0+3"], "fixed.steps names step 3"),
}


def assert_one_line(answer: Answer, message: str) -> None:
    """Refused: nothing printed but one line on the error stream, and exit code 2."""
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert re.fullmatch(r"error: [^\n]+\n", answer.err)


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_leaves_nothing(
    run: Program, tmp_path: Path, options: list[str], message: str
) -> None:
    assert_one_line(compare_small(run, tmp_path / "out", *options), message)
    assert tree(tmp_path) == set()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "asked", ["unknown method", "16 frames", "height 63", "long prompt", "nfe above steps"]
)
def test_a_bad_request_is_refused_before_the_model_is_loaded(
    run: Program, tmp_path: Path, asked: str
) -> None:
    options, message = REFUSED[asked]
    assert_one_line(compare_small(run, tmp_path / "out", *options), message)


@pytest.mark.parametrize("option", ["--steps", "--seed", "--guidance", "--nfe"])
def test_a_refusal_names_the_option_to_correct(run: Program, tmp_path: Path, option: str) -> None:
    answer = compare_small(run, tmp_path / "out", option, "-7")
    assert_one_line(answer, f"correct {option}\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none(run: Program, tmp_path: Path) -> None:
    answer = compare_small(run, tmp_path / "out", "--device", "cuda")
    assert_one_line(answer, "device 'cuda' is not available here; use cpu")
    assert tree(tmp_path) == set()


def test_a_refusal_by_a_real_process(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    answer = program("compare", "--prompt", PROMPT, "--methods", "none,[red]magic[/]", "--out", out)
    assert_one_line(answer, "unknown method '[red]magic[/]'")
    assert tree(tmp_path) == set()


TYPERS_OWN = {
    "no prompt": ["compare", "--out", "x"],
    "no folder": ["compare", "--prompt", PROMPT],
    "steps not whole": ["compare", "--prompt", PROMPT, "--out", "x", "--steps", "1.5"],
    "seed not a number": ["compare", "--prompt", PROMPT, "--out", "x", "--seed", "one"],
    "unknown option": ["compare", "--prompt", PROMPT, "--out", "x", "--fast"],
    "unknown command": ["contrast"],
    "no samples": ["calibrate", "--samples", "0"],
    "nothing to verify": ["verify"],
}


@pytest.mark.parametrize("arguments", TYPERS_OWN.values(), ids=TYPERS_OWN)
def test_what_typer_refuses_exits_alike(
    run: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert "--help" in answer.err and "Traceback" not in answer.err
    assert tree(tmp_path) == set()


# ---- profiles that do not fit


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def bundled() -> Profile:
    return load_profile(bundled_profile("tiny-wan.unipc-50"))


def changed_profile(**model: str) -> str:
    data = json.loads(bundled().to_json())
    data["model"].update(model)
    return json.dumps(data)


GARBAGE = {
    "empty": b"",
    "not text": bytes(range(256)),
    "not JSON": b"{",
    "a list": b"[]",
    "no profile": b"{}",
    "another schema": json.dumps({"schema": "sencache.report/1"}).encode(),
    "not a number": changed_profile().replace(': "wan"', ": NaN").encode(),
    "unknown architecture": changed_profile(architecture="sora").encode(),
    "too large": b" " * 1_000_001,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_file_that_is_no_profile_is_refused(run: Program, tmp_path: Path, content: bytes) -> None:
    file = written(tmp_path / "bad.json", content)
    assert_one_line(compare_small(run, tmp_path / "out", "--profile", file), "bad.json")
    assert_one_line(run("profiles", "validate", file), "bad.json")
    assert_one_line(run("profiles", "show", file), "bad.json")
    assert tree(tmp_path) == {"bad.json"}


def test_a_profile_of_another_model_is_refused(run: Program, tmp_path: Path) -> None:
    file = written(tmp_path / "ltx.json", changed_profile(architecture="ltx", id="other"))
    for method in ("sencache", "fixed"):
        answer = compare_small(run, tmp_path / "out", "--profile", file, "--methods", method)
        assert_one_line(answer, "made for other (ltx) and cannot serve a wan model")
    assert tree(tmp_path) == {"ltx.json"}


# ---- places that cannot be written


@pytest.mark.usefixtures("no_work")
def test_a_folder_below_a_file_is_refused_before_any_work(run: Program, tmp_path: Path) -> None:
    file = written(tmp_path / "file", "mine")
    for out in (file, file / "out"):
        assert_one_line(compare_small(run, out), f"cannot write {out}")
    assert file.read_text() == "mine" and tree(tmp_path) == {"file"}


def test_a_name_too_long_is_refused(run: Program, tmp_path: Path) -> None:
    assert_one_line(compare_small(run, tmp_path / LONG), "cannot write")
    assert_one_line(run("calibrate", "--out", tmp_path / LONG), "cannot write")
    assert_one_line(run("profiles", "show", LONG), "no bundled profile")
    assert_one_line(run("profiles", "validate", LONG), "cannot read profile")
    assert_one_line(run("verify", LONG), "cannot read report")


def test_a_refusal_removes_all_folders_made_on_the_way(run: Program, tmp_path: Path) -> None:
    assert compare_small(run, tmp_path / "a" / "b" / "c", "--methods", "fixed:interval=0").code == 2
    assert tree(tmp_path) == set()


def test_an_existing_folder_stays_as_it_is(run: Program, tmp_path: Path) -> None:
    written(tmp_path / "report.json", "mine")
    assert compare_small(run, tmp_path, "--methods", "fixed:interval=0").code == 2
    assert tree(tmp_path) == {"report.json"}
    assert (tmp_path / "report.json").read_text() == "mine"


# ---- interrupted


@pytest.mark.parametrize("place", ["lane", "consumer"])
def test_an_interrupt_leaves_nothing(
    run: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    if place == "lane":
        monkeypatch.setattr(UniPCMultistepScheduler, "step", interrupt)
    else:
        monkeypatch.setattr("sencache.tables.LaneProgress.step", interrupt)
    answer = compare_small(run, tmp_path / "out")
    assert answer.code not in (0, 2)
    assert answer.out == "" and "Traceback" not in answer.err
    assert tree(tmp_path) == set()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_control_c_leaves_nothing(tmp_path: Path) -> None:
    command = ["compare", "--prompt", PROMPT, "--steps", "1000", "--methods", "fixed"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sencache", *command, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    wait_for(lambda: any("partial" in path for path in tree(tmp_path)))
    # Loading comes first, and an interrupted import of torch says so in its own words.
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode not in (0, 2)
    assert out == "" and "Traceback" not in err
    assert tree(tmp_path) == set()


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


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
    options = (
        "--steps",
        "4",
        "--samples",
        "1",
        "--scheduler",
        "euler",
        "--shift",
        "5",
        "--target",
        "residual",
    )
    assert run("calibrate", *options, "--guidance", "1", "--frames", "9", "--out", out).code == 0
    profile = load_profile(out)
    assert (profile.schedule.scheduler, profile.schedule.config["shift"]) == (
        "FlowMatchEulerDiscreteScheduler",
        5,
    )
    assert profile.sensitivity is not None and profile.sensitivity.target == "residual"
    assert profile.shape is not None and (profile.shape.frames, profile.guidance_scale) == (9, 1.0)
    made = (
        "--methods",
        "sencache",
        "--steps",
        "4",
        "--frames",
        "9",
        "--profile",
        out,
        "--scheduler",
        "euler",
    )
    assert compare_small(run, tmp_path, *made, "--shift", "5").code == 0
    report = load_report(tmp_path / "report.json")
    assert report.model.scheduler == "FlowMatchEulerDiscreteScheduler shift 5"
    assert report.lanes[1].notes == ()


CALIBRATE_REFUSED = {
    "unknown model": (["--model", "sora"], "unknown model 'sora'"),
    "no steps": (["--steps", "0"], "steps is 0"),
    "one step": (["--steps", "1"], "calibration needs at least two steps"),
    "negative seed": (["--seed", "-1"], "seed is -1"),
    "no such prompts": (["--prompts", "missing.txt"], "cannot read prompts from missing.txt"),
    "unknown device": (["--device", "tpu"], "unknown device 'tpu'"),
    "unknown scheduler": (["--scheduler", "ddim"], "unknown scheduler 'ddim'; this model takes unipc, euler"),
    "no shift": (["--shift", "-1"], "a shift of -1 is out of range"),
    "unknown method": (["--method", "guess"], "unknown method 'guess'"),
    "unknown target": (["--target", "delta"], "cannot calibrate on 'delta'"),
    "no clips": (["--method", "paper"], "--clips DIR is for paper"),
    "clips for nothing": (["--clips", "."], "--clips DIR is for paper"),
    "no such clips": (["--method", "paper", "--clips", "missing"], "missing holds no clips"),
    "odd size": (["--height", "50"], "cannot make a height of 50 pixels"),
}


@pytest.mark.parametrize(("options", "message"), CALIBRATE_REFUSED.values(), ids=CALIBRATE_REFUSED)
def test_calibrate_refuses_bad_input(run: Program, tmp_path: Path, options: list[str], message: str) -> None:
    out = tmp_path / "new" / "profile.json"
    assert_one_line(run("calibrate", "--steps", "2", "--samples", "1", "--out", out, *options), message)
    assert tree(tmp_path) == set()


PROMPT_FILES = {
    "no prompts": (b"\n \n", "holds no prompts"),
    "not text": (b"\xff\xfe\xfa", "cannot read prompts"),
    "a long prompt": (b"a circle\n" + LONG.encode(), "the prompt has 10,000 characters"),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("content", "message"), PROMPT_FILES.values(), ids=PROMPT_FILES)
def test_calibrate_looks_at_the_prompts_first(
    run: Program, tmp_path: Path, content: bytes, message: str
) -> None:
    file = written(tmp_path / "prompts.txt", content)
    assert_one_line(run("calibrate", "--prompts", file, "--out", tmp_path / "profile.json"), message)
    assert tree(tmp_path) == {"prompts.txt"}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("out", ["file/profile.json", "."])
def test_calibrate_looks_at_the_place_first(run: Program, tmp_path: Path, out: str) -> None:
    written(tmp_path / "file", "mine")
    assert_one_line(run("calibrate", "--out", tmp_path / out), "cannot write")
    assert tree(tmp_path) == {"file"}


# ---- what needs no model


def test_models_lists_them(run: Program) -> None:
    answer = run("models")
    assert (answer.code, answer.err) == (0, "")
    assert "tiny-wan" in answer.out and "apache-2.0" in answer.out
    [entry] = [entry for entry in json.loads(run("models", "--json").out) if entry["key"] == "tiny-wan"]
    assert entry["licence"] == "apache-2.0" and "bundled" in entry["summary"]


def test_profiles_list_and_show(run: Program) -> None:
    profile = bundled()
    answer = run("profiles", "list")
    assert answer.code == 0
    assert "tiny-wan.unipc-50" in answer.out and profile.sha256[:12] in answer.out
    entry = {"name": "tiny-wan.unipc-50", "model": "tiny-wan", "sha256": profile.sha256}
    assert entry in json.loads(run("profiles", "list", "--json").out)
    for name in ("tiny-wan.unipc-50", str(bundled_profile("tiny-wan.unipc-50"))):
        assert parse_profile(run("profiles", "show", name).out).sha256 == profile.sha256
    assert_one_line(
        run("profiles", "show", "nothing"), "no bundled profile 'nothing'; there are cogvideox-2b, "
    )


@pytest.mark.parametrize("name", ["report", "profile"])
def test_schema_describes_every_field(run: Program, name: str) -> None:
    answer = run("schema", name)
    schema = json.loads(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert schema["properties"]["schema"]["const"] == f"sencache.{name}/1"
    assert schema["additionalProperties"] is False


def test_the_schemas_hold_for_the_files(run: Program, report: Report, folder: Path) -> None:
    files = {"report": folder / "report.json", "profile": bundled_profile("tiny-wan.unipc-50")}
    for name, path in files.items():
        schema, data = json.loads(run("schema", name).out), json.loads(path.read_text(encoding="utf-8"))
        assert unknown_or_missing(schema, schema, data) == []


def unknown_or_missing(root: dict[str, Any], schema: dict[str, Any], data: Any, at: str = "$") -> list[str]:
    """Where `data` has keys that the schema does not know, or lacks required ones; a small part of JSON
    schema.
    """
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    for option in schema.get("anyOf", ()):
        if (option.get("type") == "null") == (data is None):
            return unknown_or_missing(root, option, data, at)
    if isinstance(data, list):
        item = schema.get("items", {})
        return [
            found
            for i, part in enumerate(data)
            for found in unknown_or_missing(root, item, part, f"{at}[{i}]")
        ]
    if not isinstance(data, dict) or "properties" not in schema:
        return []
    known = schema["properties"]
    wrong = [
        f"{at}.{key}"
        for key in {*(data.keys() - known.keys()), *(set(schema.get("required", ())) - data.keys())}
    ]
    return wrong + [
        found
        for key in data.keys() & known.keys()
        for found in unknown_or_missing(root, known[key], data[key], f"{at}.{key}")
    ]


def test_unknown_names_are_refused(run: Program, tmp_path: Path) -> None:
    assert_one_line(run("schema", "video"), "no schema 'video'; choose report or profile")
    assert_one_line(run("verify", tmp_path / "none.json"), "cannot read report")
    assert_one_line(run("verify", tmp_path), "cannot read report")
    assert_one_line(run("verify", written(tmp_path / "x.json", "{}")), "x.json is not a sencache.report/1")


# ---- help


def commands() -> Iterator[tuple[list[str], Any]]:
    def walk(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, [*path, name])

    return walk(typer.main.get_command(cli.app), [])


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_help_explains_every_option(run: Program, path: list[str]) -> None:
    command = next(command for found, command in commands() if found == path)
    answer = run(*path, "--help")
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", answer.out).split())
    assert (answer.code, answer.err) == (0, "")
    assert command.help and command.help.split("\n")[0].split(".")[0] in text
    for parameter in command.params:
        assert parameter.help, parameter.name
        for name in parameter.opts:
            assert name.lstrip("-") in text.replace("_", "-").lower() or name in text
    for name, inner in getattr(command, "commands", {}).items():
        assert name in text and inner.help


def test_help_loads_nothing_heavy() -> None:
    script = f"""
import contextlib, io, sys
from sencache import cli
for path in {[path for path, _ in commands()]!r}:
    sys.argv = ["sencache", *path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main()
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    loaded = set(done.stdout.split())
    assert "typer" in loaded and not loaded & HEAVY
