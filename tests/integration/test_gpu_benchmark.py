"""The GPU benchmark, in miniature on a CPU: the same code, all of it but the counting of CUDA's waits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> Any:
    """The benchmark's own module."""
    sys.path.insert(0, str(FOLDER))
    import gpu

    yield gpu
    sys.path.remove(str(FOLDER))


def ran(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict[str, Any]:
    tiny = ("--scale", "tiny", "--device", "cpu", "--steps", "6", "--out", str(out))
    monkeypatch.setattr(sys, "argv", ["gpu.py", *tiny, *arguments])
    assert gpu.main() == 0
    return dict(json.loads(out.read_text(encoding="utf-8")))


def test_all_three_models_and_their_peers(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ran(gpu, monkeypatch, tmp_path / "out.json", "--backend", "none")
    assert [one["model"] for one in told["models"]] == ["wan", "cogvideox", "ltx"]
    assert (told["steps"], told["scale"]) == (6, "tiny") and told["machine"]["torch"] == torch.__version__
    for one in told["models"]:
        values = one["values"]
        assert set(one["failed"]) == {"syncs"}
        assert all(values[f"bit-identical, {name}"] == 1 for name in ("none", "caching", "scoring"))
        assert values["ceiling"] == 6 / 4
        assert values["same latents as MagCacheConfig"] == 1
        assert values["reused step, ms"] > 0 and values["computed step, ms"] > 0
        assert values["FirstBlockCacheConfig, s"] > 0 and values["computed step among four lanes, ms"] > 0
    printed = capsys.readouterr().out
    assert "<= 0.01" in printed and "syncs failed: NotImplementedError: counted on CUDA only" in printed


def test_compiled_blocks(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = ran(gpu, monkeypatch, tmp_path / "out.json", "--backend", "eager", "--models", "ltx")
    eager, compiled = told["models"]
    assert (eager["compiled"], compiled["compiled"]) == (False, True)
    assert set(compiled["failed"]) == {"syncs"} and set(compiled["values"]) == set(eager["values"])


def test_a_part_that_runs_out_of_memory_is_reported_and_the_next_begins(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setitem(gpu.PARTS, "peers", full)
    subject = gpu.make_subject("wan", "tiny", torch.device("cpu"), torch.bfloat16)
    figures = gpu.measure(subject, 4, None)
    assert figures.failed["peers"] == "out of memory"
    assert "computed step among four lanes, ms" in figures.values
    assert "peers failed: out of memory" in gpu.table([figures])


def test_missed_targets_are_marked(gpu: ModuleType) -> None:
    values = {"reused over computed": 0.02, "overhead, none": 0.0005, "speed-up over ceiling": 0.98}
    printed = gpu.table([gpu.Figures("wan", False, values), gpu.Figures("ltx", True, {})]).splitlines()
    assert ["missed" in line for line in printed[1:]] == [True, False, True]
    assert printed[1].endswith("<= 0.01") and printed[1].split()[-3] == "-"


@pytest.mark.parametrize(
    ("name", "billions", "latent"),
    [("wan", 1.42, (16, 21, 60, 104)), ("cogvideox", 1.69, (16, 13, 60, 90)), ("ltx", 1.92, (128, 8064))],
)
def test_full_models_have_the_published_size(
    gpu: ModuleType, name: str, billions: float, latent: tuple[int, ...]
) -> None:
    """On the meta device, where it takes no memory: parameters within 1 %, the latent from size and
    compression.
    """
    from gpu_models import ENTRIES, make_transformer

    size = ENTRIES[name].full
    transformer = make_transformer(ENTRIES[name], size, torch.device("meta"))
    count = sum(parameter.numel() for parameter in transformer.parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.01)
    spatial, temporal = (32, 8) if name == "ltx" else (8, 4)
    frames = (size.frames - 1) // temporal + 1
    height, width = size.height // spatial, size.width // spatial
    channels = transformer.config.in_channels
    tokens = (channels, frames * height * width)
    assert latent == (tokens if name == "ltx" else (channels, frames, height, width))
