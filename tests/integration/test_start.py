"""How the app starts, and how it says that it cannot: in its log, which is all that a Space's owner sees."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sencache.app import service
from sencache.app.pages import page
from sencache.app.service import ComparisonService

ROOT = Path(__file__).parents[2]


def test_what_is_missing_is_one_sentence_and_code_2() -> None:
    environment = {**os.environ, "MODEL_ID": "nope", "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("unknown model 'nope'; choose from tiny-wan")
    assert "Traceback" not in done.stderr


# By its key, and by the repository that holds nothing else.
@pytest.mark.parametrize("name", ["wan-14b-i2v-480p", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"])
def test_a_model_that_needs_a_still_is_refused_before_it_is_fetched(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MODEL_ID", name)
    with pytest.raises(SystemExit) as ended:
        page.start()
    assert ended.value.code == 2
    (told,) = caplog.messages
    assert name in told and "no place" in told and "starts from text alone" in told and "\n" not in told


def test_a_disk_that_fills_up_while_weights_are_packed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """ZeroGPU packs them when the app is launched."""

    def launch(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SystemExit) as ended:
        page.launch(SimpleNamespace(launch=launch))  # type: ignore[arg-type]
    assert ended.value.code == 2
    assert caplog.messages == [
        "the disk is full, so the app could not start; name a smaller model in MODEL_ID"
    ]


@pytest.mark.parametrize("device", ["rocm", "cpu,cpu", "cuda:99"])
def test_a_device_that_cannot_be_had_ends_the_start(
    device: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SENCACHE_DEVICE", device)
    with pytest.raises(SystemExit) as ended:
        page.start()
    assert ended.value.code == 2
    (told,) = caplog.messages
    assert repr(device.partition(",")[0]) in told and "\n" not in told


def test_the_log_says_how_the_model_was_placed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipe, told = SimpleNamespace(transformer=None), "text encoder in RAM but while it encodes"
    monkeypatch.setattr(service, "model", lambda key: SimpleNamespace(pipe=pipe, placement=told))
    monkeypatch.setenv("SENCACHE_DEVICE", "cuda:0,cuda:1")
    with caplog.at_level(logging.INFO, "sencache"):
        ComparisonService().warm("wan-1.3b")
    assert caplog.messages == [f"wan-1.3b is on cuda:0, cuda:1: {told}"]
