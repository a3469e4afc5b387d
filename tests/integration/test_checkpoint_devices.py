"""A checkpoint meets devices, precisions and memory that do or do not suffice."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from refusals import refusal

from sencache.models import loading
from sencache.models.checkpoint import find_spec
from sencache.models.model import MODELS, load
from sencache.models.placement import Weights
from sencache.models.zerogpu import CARD_BYTES

# ---- devices and precisions


def test_why_there_is_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "install a CUDA build of torch" in refusal(lambda: load("tiny-wan", "cuda"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "check the driver with nvidia-smi" in refusal(lambda: load("tiny-wan", "cuda:1"))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert refusal(lambda: load("tiny-wan", "cuda:2")) == "there is no 'cuda:2'; this machine has 2 GPUs"


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 6), ["sm_80", "sm_90"], True),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
    ],
)
def test_a_build_of_torch_without_code_for_the_gpu_is_refused(
    capability: tuple[int, int], built: list[str], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    if runs:
        assert loading.find_device("cuda").type == "cuda"
    else:
        message = refusal(lambda: loading.find_device("cuda"))
        assert f"is sm_{capability[0]}{capability[1]}; install a build of torch" in message


def test_a_gpu_without_bfloat16_is_told_the_other_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    gpu, spec = torch.device("cuda"), MODELS["wan-1.3b"]
    assert (
        refusal(lambda: loading.choose_dtype(spec, gpu, None)) == "Tesla T4 has no bfloat16; use --dtype fp16"
    )
    assert loading.choose_dtype(spec, gpu, "fp16") == "float16"
    assert loading.choose_dtype(MODELS["cogvideox-2b"], gpu, None) is None


@pytest.mark.parametrize(("asked", "dtype"), [(None, torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_asked_for_is_that_of_all_parts(
    saved: Path, asked: str | None, dtype: torch.dtype
) -> None:
    model = load(str(saved), dtype=asked)
    assert model.dtype == dtype and model.info().dtype == str(dtype).removeprefix("torch.")
    for part in (model.pipe.transformer, model.pipe.vae, model.pipe.text_encoder):
        # Some modules of transformers' T5 stay in float32 on purpose, as do diffusers' embeddings of time.
        assert dtype in {p.dtype for p in part.parameters()}


def test_without_a_precision_every_part_has_its_own(saved: Path) -> None:
    pipe = loading.load_pipeline(find_spec(str(saved)), saved, torch.device("cpu"), None, None)
    kinds = {"transformer": torch.bfloat16, "text_encoder": torch.bfloat16, "vae": torch.float32}
    for name, dtype in kinds.items():
        assert dtype in {p.dtype for p in getattr(pipe, name).parameters()}, name


# ---- memory


def test_too_little_memory_is_refused_before_loading(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_from_files", lambda *_: pytest.fail("it was loaded"))
    monkeypatch.setattr(loading, "free_ram", lambda: 1000)
    message = refusal(lambda: load(str(saved)))
    assert "of RAM without a GPU (computed, not measured) and 0.0 GB are free" in message


def test_the_cards_memory_decides_what_waits_in_ram(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a card that is only pretended: the more is free, the less waits."""
    spec, gpu = find_spec(str(saved)), torch.device("cuda")
    chosen = []
    for free in (0, 10**10, 10**12):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**12))
        if free:
            chosen.append(loading.choose_placement(spec, saved, gpu, None))
        else:
            assert "0.0 GB are free" in refusal(lambda: loading.choose_placement(spec, saved, gpu, None))
    assert str(chosen[-1]) == "all parts on the GPU"


def test_on_zerogpu_the_normal_card_is_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a Space starts there is no GPU to ask."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: pytest.fail("a GPU was asked"))
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    assert loading.free_gpu(torch.device("cuda")) == 42 * 2**30


def test_zerogpu_streams_nothing_and_needs_the_disk_for_what_is_on_the_card(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams and pinned memory need the GPU that a Space has not while it starts."""
    spec, gpu = MODELS["wan-14b"], torch.device("cuda")
    monkeypatch.setattr(loading, "measure_weights", lambda *_: Weights.of(spec))
    monkeypatch.setattr(loading, "free_ram", lambda: 10**12)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (CARD_BYTES, CARD_BYTES))
    here = loading.choose_placement(spec, saved, gpu, None)
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    there = loading.choose_placement(spec, saved, gpu, None)
    assert (here and here.transformers, there and there.transformers) == ("streamed", "blocks")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 10**9))
    message = refusal(lambda: loading.choose_placement(spec, saved, gpu, None))
    assert "ZeroGPU packs 29.1 GB again, and 20.0 GB are free" in message


def test_a_card_that_fills_up_while_loading_is_said(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("made up")

    monkeypatch.setattr(loading, "place", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * 10**9, 10**12))
    call = lambda: loading.load_pipeline(find_spec(str(saved)), saved, torch.device("cuda"), None, None)  # noqa: E731
    assert "did not fit cuda, though 2.0 GB are free now" in refusal(call)
