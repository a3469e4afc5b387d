"""Checkpoints: what is found in a folder or a cache, what is missing, and what the Hub answers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import httpx
from published import write_tokenizer
from refusals import refusal
from transformers import T5TokenizerFast

from sencache.models import checkpoint, loading
from sencache.models.checkpoint import (
    cached_folder,
    find_spec,
    missing_files,
    offered_model,
    offered_models,
    weights_folder,
)
from sencache.models.model import MODELS, load

REPO, COMMIT = "someone/wan-tiny", "0123456789abcdef0123456789abcdef01234567"
SHARDED = "vae/diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's client, which is switched off."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def fetched(saved: Path, cache: Path) -> Path:
    """The checkpoint as the Hub's client keeps it."""
    home = cache / f"models--{REPO.replace('/', '--')}"
    shutil.copytree(saved, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    return home / "snapshots" / COMMIT


# ---- what is found


def test_a_repository_in_the_cache_needs_no_network(fetched: Path) -> None:
    model = load(REPO)
    assert (model.info().id, model.info().revision, model.info().key) == (REPO, COMMIT, REPO)
    assert type(model.pipe).__name__ == "WanPipeline"
    assert cached_folder(model.spec) == fetched


def test_a_repository_on_the_list_is_that_entry() -> None:
    for key, spec in MODELS.items():
        assert find_spec(key) is spec
        if isinstance(spec.source, str):
            assert find_spec(spec.source, spec.from_image) is spec


@pytest.mark.parametrize("key", ["", "sora", "/nowhere/at/all", "a/b/c", "a b/c"])
def test_what_is_no_name_is_refused(key: str, cache: Path) -> None:
    message = refusal(lambda: find_spec(key))
    assert message.startswith(f"unknown model {key!r}; choose from") and "folder" in message


@pytest.mark.parametrize("key", ["a--b/c", "../up"])
def test_names_that_the_hub_cannot_have_are_refused(key: str, cache: Path) -> None:
    assert "is not a repository" in refusal(lambda: find_spec(key))


@pytest.mark.parametrize("name", ["WanVACEPipeline", "FluxPipeline"])
def test_a_pipeline_that_is_not_supported_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    message = refusal(lambda: find_spec(str(tmp_path)))
    assert f"is a {name}, which is not supported; use one of " in message and "WanPipeline" in message


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    message = refusal(lambda: find_spec(str(tmp_path)))
    assert "not a checkpoint in the layout of diffusers" in message and "model_index.json" in message
    for content in ("{", "[]"):
        (tmp_path / "model_index.json").write_text(content)
        assert "is damaged" in refusal(lambda: find_spec(str(tmp_path)))


def test_the_app_offers_what_is_bundled_or_the_one_model_it_is_set_up_for(
    fetched: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else decides what an app fetches and loads."""
    monkeypatch.delenv("MODEL_ID", raising=False)
    assert set(offered_models()) == {key for key, spec in MODELS.items() if spec.bundled} >= {"tiny-wan"}
    for key in ("wan-14b", REPO, str(saved)):
        assert f"unknown model {key!r}; choose from tiny-wan" in refusal(lambda key=key: offered_model(key))
    for chosen, key in (("wan-1.3b", "wan-1.3b"), (REPO, REPO), (str(saved), saved.name)):
        monkeypatch.setenv("MODEL_ID", chosen)
        assert list(offered_models()) == [key] and offered_model(key).key == key
        assert "choose from" in refusal(lambda: offered_model("tiny-wan"))


# ---- what is missing


SHARD = "text_encoder/model-00002-of-00002.safetensors"
PARTS = ["vae/config.json", SHARD, "tokenizer", "scheduler", "model_index.json"]


@pytest.mark.parametrize("lost", PARTS)
def test_what_a_folder_lacks_is_named(saved: Path, tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "half"
    shutil.copytree(saved, folder)
    spec = find_spec(str(folder))
    assert missing_files(folder) == []
    (shutil.rmtree if (folder / lost).is_dir() else os.remove)(folder / lost)
    assert [name.split("/")[0] for name in missing_files(folder)] == [lost.split("/")[0]]
    message = refusal(lambda: load(spec))
    assert lost.split("/")[0] in message and f"save the pipeline into {folder} again" in message


def test_a_shard_that_did_not_arrive_is_named(fetched: Path) -> None:
    shards = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (fetched / SHARDED).write_text(json.dumps(shards))
    (fetched / "vae" / "one.safetensors").touch()
    assert missing_files(fetched) == ["vae/two.safetensors"]
    message = refusal(lambda: load(REPO))
    assert "was not fetched to its end (vae/two.safetensors is missing)" in message
    assert "unset HF_HUB_OFFLINE" in message


@pytest.mark.parametrize("size", [0, 1000])
def test_a_file_cut_short_is_found_before_anything_is_loaded(
    saved: Path, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(saved, folder)
    os.truncate(folder / "vae" / "diffusion_pytorch_model.safetensors", size)
    monkeypatch.setattr(loading, "_from_files", lambda *_: pytest.fail("it was loaded"))
    assert "vae/diffusion_pytorch_model.safetensors" in refusal(lambda: load(str(folder)))


# ---- tokenizers


@pytest.fixture
def slow(fetched: Path) -> Path:
    """The tokenizer of a checkpoint in the cache, as CogVideoX and LTX-Video are published."""
    shutil.rmtree(fetched / "tokenizer")
    write_tokenizer(fetched / "tokenizer", fast=False)
    return fetched / "tokenizer"


def test_the_tokenizer_reads_the_same_with_and_without_its_converted_file(saved: Path, slow: Path) -> None:
    one, other = (T5TokenizerFast.from_pretrained(folder) for folder in (saved / "tokenizer", slow))
    text = "a red circle moves"
    assert one(text).input_ids == other(text).input_ids and len(set(one(text).input_ids)) > 5
    assert load(REPO).encode("a cat", "", 1.0)["prompt_embeds"].isfinite().all()


@pytest.mark.parametrize("package", ["google.protobuf", "sentencepiece"])
def test_a_package_that_the_tokenizer_needs_is_named(
    slow: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is fetched again for it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "sentencepiece"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(loading, "_from_files", lambda *_: pytest.fail("weights were loaded first"))
    message = refusal(lambda: load(REPO))
    assert f"{REPO} comes with tokenizer/spiece.model" in message and package in message
    assert "`pip install --upgrade protobuf sentencepiece`" in message and "hf cache rm" not in message


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1"])
def test_a_damaged_tokenizer_is_told_as_one(slow: Path, name: str, content: bytes) -> None:
    (slow / name).write_bytes(content)
    message = refusal(lambda: load(REPO))
    assert f"the tokenizer of {REPO} cannot be read (tokenizer/{name} is damaged" in message
    assert message.endswith(f"`hf download {REPO} tokenizer/{name} --force-download`)")


def test_a_vocabulary_is_never_made_up(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wordless"
    shutil.copytree(saved, folder)
    for name in ("spiece.model", "tokenizer.json"):
        (folder / "tokenizer" / name).unlink()
    assert missing_files(folder) == ["tokenizer/spiece.model"]


# ---- what the Hub answers


def answer(kind: type[Exception], status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api/models/a/b"))
    return kind("made up", response=response)


def hidden(cause: Exception) -> Exception:
    error = errors.LocalEntryNotFoundError("made up")
    error.__cause__ = cause
    return error


ANSWERS = {
    "switched off": (errors.OfflineModeIsEnabled("made up"), "unset HF_HUB_OFFLINE"),
    "gated": (answer(errors.GatedRepoError, 403), "accept its terms on the Hub"),
    "not there": (answer(errors.RepositoryNotFoundError, 404), "no such repository, or it is private"),
    "no network": (httpx.ConnectError("made up"), "check the network"),
    "slow": (httpx.ReadTimeout("made up"), "did not answer within"),
    "behind a missing file": (hidden(httpx.ConnectError("made up")), "check the network"),
    "only a missing file": (errors.LocalEntryNotFoundError("made up"), "unset HF_HUB_OFFLINE"),
    "disk full": (OSError(errno.ENOSPC, "made up"), "the disk is full"),
    "forbidden folder": (PermissionError(errno.EACCES, "Permission denied"), "check the Hub's cache folder"),
}


@pytest.mark.parametrize("place", ["model_info", "snapshot_download"])
@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_one_sentence_with_a_remedy(
    name: str, place: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, remedy = ANSWERS[name]

    def ask(*_: Any, **given: Any) -> Any:
        raise errors.LocalEntryNotFoundError("nothing kept") if given.get("local_files_only") else error

    info = SimpleNamespace(id=REPO, siblings=())
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", ask if place == "model_info" else lambda *_, **__: info
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    message = refusal(lambda: weights_folder(MODELS["wan-1.3b"]))
    assert remedy in message and "Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in message
    assert "\n" not in message and "Traceback" not in message


def test_a_full_disk_is_seen_before_the_fetch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is wanted and not kept counts: parts' folders, not the same weights in other forms."""
    files = {
        "vae/model.safetensors": 10**15,
        "all-in-one.safetensors": 10**18,
        "original/vae/model.safetensors": 10**18,
        "vae/model.fp16.safetensors": 10**18,
    }
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
    info = SimpleNamespace(id=REPO, siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    message = refusal(lambda: load("wan-1.3b"))
    assert "1000000.0 GB to fetch" in message and "HF_HOME" in message


def test_zerogpu_needs_room_for_the_pack_as_well(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """29 GB of files and 15 GB of pack do not fit 40 GB, the files alone do."""
    siblings = [SimpleNamespace(rfilename="vae/model.safetensors", size=29 * 10**9)]
    info = SimpleNamespace(id=REPO, siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=40 * 10**9))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch := Mock(side_effect=_nothing_kept))
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    message = refusal(lambda: weights_folder(MODELS["wan-1.3b"]))
    assert "29.0 GB to fetch, of which ZeroGPU packs 14.7 GB again, and 40.0 GB are free" in message
    assert "half precision" in message and fetch.call_count == 1
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert "made up" in refusal(lambda: weights_folder(MODELS["wan-1.3b"])) and fetch.call_count == 3


def _nothing_kept(*_: Any, local_files_only: bool = False, **__: Any) -> None:
    raise errors.LocalEntryNotFoundError("kept") if local_files_only else OSError(errno.EIO, "made up")


def test_an_incomplete_copy_is_fetched_to_its_end(
    fetched: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = "vae/diffusion_pytorch_model.safetensors"
    (fetched / lost).unlink()
    kept, asked = huggingface_hub.snapshot_download, []

    def fetch(*names: Any, **given: Any) -> Any:
        if given.get("local_files_only"):
            return kept(*names, **given)
        asked.append(names)
        shutil.copy(saved / lost, fetched / lost)
        return str(fetched)

    siblings = [SimpleNamespace(rfilename=lost, size=1)]
    info = SimpleNamespace(id=REPO, siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load(REPO).revision == COMMIT and asked == [(REPO,)]


def test_nothing_is_fetched_for_what_is_kept(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "explain_fetch", lambda *_: pytest.fail("the Hub was asked"))
    assert weights_folder(find_spec(REPO)) == fetched
