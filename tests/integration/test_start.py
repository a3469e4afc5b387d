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


@pytest.mark.parametrize(
    ("variable", "value", "parts"),
    [
        ("MODEL_ID", "wan-14b-i2v-480p", ("wan-14b-i2v-480p", "no place", "starts from text alone")),
        ("MODEL_ID", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", ("Wan-AI/Wan2.1", "starts from text alone")),
        ("SENCACHE_DEVICE", "rocm", ("'rocm'",)),
        ("SENCACHE_DEVICE", "cpu,cpu", ("'cpu'",)),
        ("SENCACHE_DEVICE", "cuda:99", ("'cuda:99'",)),
    ],
)
def test_what_cannot_be_had_ends_the_start_before_anything_is_fetched(
    variable: str,
    value: str,
    parts: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model that needs a still, by its key and by its repository; devices that are not there."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        page.start()
    assert ended.value.code == 2
    (told,) = caplog.messages
    assert all(part in told for part in parts) and "\n" not in told


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


def test_the_log_says_how_the_model_was_placed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipe, told = SimpleNamespace(transformer=None), "text encoder in RAM but while it encodes"
    monkeypatch.setattr(service, "model", lambda key: SimpleNamespace(pipe=pipe, placement=told))
    monkeypatch.setenv("SENCACHE_DEVICE", "cuda:0,cuda:1")
    with caplog.at_level(logging.INFO, "sencache"):
        ComparisonService().warm("wan-1.3b")
    assert caplog.messages == [f"wan-1.3b is on cuda:0, cuda:1: {told}"]
