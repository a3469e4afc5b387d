"""The GPU benchmark, in miniature on a CPU: the same code, all of it but CUDA's waits, streams and memory."""

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


def run(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict[str, Any]:
    tiny = ("--scale", "tiny", "--device", "cpu", "--steps", "6", "--out", str(out))
    monkeypatch.setattr(sys, "argv", ["gpu.py", *tiny, *arguments])
    assert gpu.main() == 0
    return dict(json.loads(out.read_text(encoding="utf-8")))


def test_every_part_on_one_model_eager_and_compiled(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(gpu, monkeypatch, tmp_path / "eager.json", "--only", "eager", "--models", "wan")
    assert told["scale"] == "tiny" and told["machine"]["torch"] == torch.__version__
    (eager,) = told["models"]
    assert set(eager["failed"]) == {"syncs", "offloading"}
    assert set(eager["parts"]) == {"costs", "peers", "lanes", "decoding", "comparison"}
    values = eager["values"]
    assert all(values[name] == 1 for name in values if name.startswith("bit-identical"))
    assert "bit-identical, blocks moved" in values and values["ceiling"] == 6 / 4
    assert values["same latents as MagCacheConfig"] == 1
    timed = ("reused step, ms", "FirstBlockCacheConfig, s", "decoding in tiles, s", "comparison, MP4 s")
    assert all(values[name] > 0 for name in timed)
    printed = capsys.readouterr().out
    assert "<= 0.01" in printed and "syncs failed: NotImplementedError: counted on CUDA only" in printed
    kind = ("--only", "compiled", "--backend", "eager", "--models", "wan", "--parts", "lanes,decoding")
    (compiled,) = run(gpu, monkeypatch, tmp_path / "compiled.json", *kind)["models"]
    assert compiled["compiled"] and set(compiled["parts"]) == {"lanes"}, "the VAE is not compiled"


def test_a_run_goes_on_where_it_was_stopped(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is measured stays, part by part; what failed is tried again, and other settings are refused."""
    out, only = tmp_path / "out.json", ("--only", "eager", "--models", "cogvideox,ltx")
    parts = dict(gpu.PARTS)
    monkeypatch.setitem(gpu.PARTS, "peers", parts["peers"].__class__(fail, lambda _: 0))
    first = run(gpu, monkeypatch, out, *only, "--parts", "peers,decoding")["models"]
    assert [one["model"] for one in first] == ["cogvideox", "ltx"]
    assert all(one["failed"] == {"peers": "out of memory"} for one in first)
    monkeypatch.setitem(gpu.PARTS, "peers", parts["peers"])
    again = run(gpu, monkeypatch, out, *only, "--parts", "peers,decoding", "--resume")["models"]
    for one, other in zip(first, again, strict=True):
        assert set(other["parts"]) == {"peers", "decoding"} and other["failed"] == {}
        assert other["parts"]["decoding"] == one["parts"]["decoding"]
        assert one["values"].items() < other["values"].items()
    monkeypatch.setattr(gpu, "make_subject", fail)
    capsys.readouterr()
    assert run(gpu, monkeypatch, out, *only, "--parts", "peers,decoding", "--resume")["models"] == again
    assert "nothing is left" in capsys.readouterr().out
    with pytest.raises(gpu.SencacheError, match="has scale tiny, not full; give another --out"):
        gpu.read(out, {"scale": "full"})


def fail(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def test_no_part_is_longer_than_it_may_be(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--plan", "--out", str(tmp_path / "no")])
    assert gpu.main() == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 3 * 10 + 1 and "too long" not in printed
    assert "too long" in gpu.plan([gpu.Figures("wan", False, 50)], ["costs"])
    monkeypatch.setattr(gpu, "make_subject", fail)
    subject = ("--models", "ltx", "--scale", "tiny", "--device", "cpu", "--out", str(tmp_path / "no"))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--within", "20", "--parts", "costs", *subject])
    assert gpu.main() == 0 and not (tmp_path / "no").exists()


def test_missed_targets_are_marked(gpu: ModuleType) -> None:
    values = {"reused over computed": 0.02, "overhead, none": 0.0005, "peak of four lanes over plan": 0.8}
    printed = gpu.table([gpu.Figures("wan", False, 6, values), gpu.Figures("ltx", True, 6)]).splitlines()
    assert ["missed" in line for line in printed[1:]] == [True, False, True]
    assert printed[1].endswith("<= 0.01") and printed[1].split()[-3] == "-"


@pytest.mark.parametrize(("name", "billions"), [("wan", 1.42), ("cogvideox", 1.69), ("ltx", 1.92)])
def test_full_models_have_the_published_size(gpu: ModuleType, name: str, billions: float) -> None:
    """On the meta device, where it takes no memory."""
    from gpu_bench import make_transformer

    transformer = make_transformer(name, torch.device("meta"))
    count = sum(parameter.numel() for parameter in transformer.parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.01)
