"""A saved pipeline as the models' own repositories hold theirs: their tokenizer files, shards and precisions.

Seen in the listings of Wan-AI/Wan2.1-T2V-1.3B-Diffusers, THUDM/CogVideoX-2b and -5b, Lightricks/LTX-Video.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any

import sentencepiece
import torch
from transformers import T5Tokenizer

SENTENCES = ("the quick brown fox jumps over the lazy dog", "a cat, a dog. a red circle moves right")
EXTRA = [f"<extra_id_{index}>" for index in range(3)]
ROLES = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class Form:
    """What a repository's files are like: whether `tokenizer.json` is among them, the precision of all
    weights, and the parts that come in several files.
    """

    fast_tokenizer: bool
    dtype: torch.dtype
    sharded: tuple[str, ...]


WAN = Form(True, torch.float32, ("text_encoder", "transformer", "transformer_2"))
COGVIDEOX_2B = Form(False, torch.float16, ("text_encoder",))
COGVIDEOX_5B = Form(False, torch.bfloat16, ("text_encoder", "transformer"))
LTX = Form(False, torch.float32, ("text_encoder", "transformer"))


def publish(pipe: Any, folder: Path, form: Form) -> Path:
    """Write `pipe` into `folder` in that form."""
    pipe.save_pretrained(folder)
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            part.to(form.dtype)
            size = sum(p.numel() * p.element_size() for p in part.parameters())
            rmtree(folder / name)
            shard = {"max_shard_size": size * 2 // 3} if name in form.sharded else {}
            part.save_pretrained(folder / name, **shard)
    rmtree(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer", form.fast_tokenizer)
    return folder


def write_tokenizer(folder: Path, fast: bool) -> None:
    """A tiny T5 tokenizer: `spiece.model` with the files beside it, and where it is `fast` what transformers
    makes of them.
    """
    folder.mkdir()
    (folder / "spiece.model").write_bytes(_spiece())
    config = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": len(EXTRA),
        "legacy": True,
        "sp_model_kwargs": {},
    }
    special = {"additional_special_tokens": EXTRA, **ROLES}
    _write(folder / "tokenizer_config.json", config | special)
    if fast:
        T5Tokenizer.from_pretrained(folder).save_pretrained(folder)
    else:
        first = sentencepiece.SentencePieceProcessor(model_proto=_spiece()).vocab_size()
        _write(folder / "added_tokens.json", {token: first + index for index, token in enumerate(EXTRA)})
    _write(folder / "special_tokens_map.json", special)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@cache
def _spiece() -> bytes:
    """Trained anew, always the same; without the tables for normalising, which are 200 kB."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=made,
        vocab_size=40,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return made.getvalue()
