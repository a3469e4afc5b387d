"""Bad input is refused in one line, which names what to correct, and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import LONG, PROMPT, Program, assert_one_line, bundled, compare_small, tree, written

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- comparisons


REFUSED: dict[str, tuple[list[str], str]] = {
    "unknown model": (["--model", "sora"], "unknown model 'sora'; choose from tiny-wan"),
    "unknown method": (["--methods", "none,magic"], "unknown method 'magic'; choose from none, fewer-steps"),
    "markup": (["--methods", "none,[red]magic[/]"], "unknown method '[red]magic[/]'"),
    "method twice": (["--methods", "fixed,fixed"], "lane 'fixed' is given twice"),
    "unknown setting": (["--methods", "fixed:speed=9"], "fixed cannot take 'speed=9'"),
    "set: no dot": (["--set", "fixed"], "cannot read the setting 'fixed'; write it as method.key=value"),
    "no steps": (["--steps", "0"], "steps is 0"),
    "5000 steps": (["--steps", "5000"], "steps is 5000"),
    "16 frames": (["--frames", "16"], "cannot make 16 frames; use 4k+1 up to 81, for example 17"),
    "no frames": (["--frames", "0"], "cannot make 0 frames"),
    "height 63": (["--height", "63"], "height of 63 pixels; use a multiple of 16 from 32 to 256, for exam"),
    "too small to measure": (["--height", "16"], "height of 16 pixels; use a multiple of 16 from 32 to 256"),
    "width -16": (["--width", "-16"], "width of -16 pixels"),
    "width 100000": (["--width", "100000"], "width of 100000 pixels; use a multiple of 16 from 32 to 256"),
    "huge seed": (["--seed", str(2**63)], f"seed is {2**63}"),
    "guidance nan": (["--guidance", "nan"], "guidance is nan"),
    "blank prompt": (["--prompt", " \n\t"], "the prompt is empty"),
    "long prompt": (["--prompt", LONG], "the prompt has 10,000 characters; shorten it to at most 2,000"),
    "long negative": (["--negative-prompt", LONG], "the negative prompt has 10,000 characters"),
    "nfe above steps": (["--nfe", "4"], "a budget of 4 evaluations exceeds the 3 steps"),
    "nfe and preset": (
        ["--nfe", "2", "--preset", "fast"],
        "a budget of 2 evaluations and the preset 'fast' would both set",
    ),
    "no text": (["--prompt", "\udcff"], "is not valid text"),
    "unknown device": (["--device", "tpu"], "unknown device 'tpu'; use cpu or cuda"),
    "device twice": (["--device", "cpu,cpu"], "device 'cpu' is given twice in 'cpu,cpu'"),
    "no such profile": (["--profile", "missing.json"], "cannot read profile missing.json (No such file"),
    # Found when the lanes are planned.
    "unknown preset": (["--preset", "warp"], "unknown preset 'warp'; this model has: slow, fast"),
    "not a number": (["--set", "fixed.interval=often"], "fixed.interval is 'often'"),
    "forced beyond nfe": (
        ["--nfe", "1", "--methods", "fixed:forced_first=2"],
        "fixed.forced_first is 2, more than the budget of 1 evaluations; force at most 1 steps",
    ),
    "too large for a step": (["--methods", "fixed:steps=0+3"], "fixed.steps names step 3"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_leaves_nothing(
    run: Program, tmp_path: Path, options: list[str], message: str
) -> None:
    assert_one_line(compare_small(run, tmp_path / "out", *options), message)
    assert tree(tmp_path) == set()


@pytest.mark.usefixtures("no_work")
def test_a_bad_request_is_refused_before_the_model_is_loaded(run: Program, tmp_path: Path) -> None:
    asked = ("unknown method", "16 frames", "height 63", "long prompt", "nfe above steps", "nfe and preset")
    for options, message in (REFUSED[name] for name in asked):
        assert_one_line(compare_small(run, tmp_path / "out", *options), message)


def test_a_refusal_names_the_option_to_correct(run: Program, tmp_path: Path) -> None:
    for option in ("--steps", "--seed", "--guidance", "--nfe"):
        assert_one_line(compare_small(run, tmp_path / "out", option, "-7"), f"correct {option}\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none(run: Program, tmp_path: Path) -> None:
    answer = compare_small(run, tmp_path, "--device", "cuda")
    assert_one_line(answer, "device 'cuda' is not available here; use cpu")


TYPERS_OWN = {
    "no prompt": ["compare", "--out", "x"],
    "steps not whole": ["compare", "--prompt", PROMPT, "--out", "x", "--steps", "1.5"],
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


def changed_profile(**model: str) -> str:
    data = json.loads(bundled().to_json())
    data["model"].update(model)
    return json.dumps(data)


GARBAGE = {
    "not text": bytes(range(256)),
    "not JSON": b"{",
    "a list": b"[]",
    "another schema": json.dumps({"schema": "sencache.report/1"}).encode(),
    "not a number": changed_profile().replace(': "wan"', ": NaN").encode(),
    "no architecture": changed_profile(architecture="Sora 2").encode(),
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


# ---- what cannot be calibrated


CALIBRATE_REFUSED = {
    "unknown model": (["--model", "sora"], "unknown model 'sora'"),
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


@pytest.mark.usefixtures("no_work")
def test_calibrate_looks_at_the_prompts_and_the_place_first(run: Program, tmp_path: Path) -> None:
    for content, message in (
        (b"\n \n", "holds no prompts"),
        (b"\xff\xfe\xfa", "cannot read prompts"),
        (b"a circle\n" + LONG.encode(), "the prompt has 10,000 characters"),
    ):
        file = written(tmp_path / "file", content)
        assert_one_line(run("calibrate", "--prompts", file, "--out", tmp_path / "profile.json"), message)
    for out in ("file/profile.json", "."):
        assert_one_line(run("calibrate", "--out", tmp_path / out), "cannot write")
    assert tree(tmp_path) == {"file"}
