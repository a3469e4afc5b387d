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
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5Tokenizer

SENTENCES = ("the quick brown fox jumps over the lazy dog", "a cat, a dog. a red circle moves right")
EXTRA = [f"<extra_id_{index}>" for index in range(3)]
ROLES = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class Form:
    """What a repository's files are like: whether `tokenizer.json` is among them (None: whatever the pipeline
    itself writes), the precision of all weights, and the parts that come in several files.
    """

    fast_tokenizer: bool | None
    dtype: torch.dtype
    sharded: tuple[str, ...]


WAN = Form(True, torch.float32, ("text_encoder", "transformer", "transformer_2"))
COGVIDEOX_2B = Form(False, torch.float16, ("text_encoder",))
COGVIDEOX_5B = Form(False, torch.bfloat16, ("text_encoder", "transformer"))
LTX = Form(False, torch.float32, ("text_encoder", "transformer"))
MOCHI = Form(False, torch.bfloat16, ("text_encoder", "transformer"))
HUNYUAN = Form(None, torch.bfloat16, ("text_encoder", "transformer"))


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
    if form.fast_tokenizer is not None:
        rmtree(folder / "tokenizer")
        write_tokenizer(folder / "tokenizer", form.fast_tokenizer)
    if hasattr(pipe, "tokenizer_2"):
        rmtree(folder / "tokenizer_2")
        write_clip_tokenizer(folder / "tokenizer_2", pipe.tokenizer_2.get_vocab())
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


def write_clip_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    """As the repositories with CLIP's text encoder hold theirs."""
    folder.mkdir()
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    start, end = "<|startoftext|>", "<|endoftext|>"
    roles = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", **roles})
    _write(folder / "special_tokens_map.json", roles)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def subword_tokenizers() -> tuple[Any, Any]:
    """HunyuanVideo's two: Llama's, whose prompts follow a long template, and CLIP's of single letters."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone = pre_tokenizers.ByteLevel.alphabet()
    special = {"special_tokens": ["<pad>", "</s>"], "initial_alphabet": bytes_alone}
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, **special)
    words.train_from_iterator([DEFAULT_PROMPT_TEMPLATE["template"], *SENTENCES], trainer)
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz,." for end in ("", "</w>")]
    tokens = [*letters, "<|startoftext|>", "<|endoftext|>"]
    return (
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>"),
        CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[]),
    )


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
