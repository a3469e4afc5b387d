"""The tokenizer of whole words and the small T5-family text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from sencache.models.words import vocabulary

LENGTH, WIDTH = 32, 128
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def tokenizer() -> Any:
    """One token per known word and an end token; every other word is `<unk>`."""
    words = (PAD, END, UNKNOWN, *vocabulary())
    rules = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN))
    rules.normalizer = normalizers.Lowercase()
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=LENGTH,
        padding_side="right",
    )


def token_ids(tokens: Any, captions: Sequence[str]) -> torch.Tensor:
    """[len(captions), LENGTH], padded with 0, as every pipeline does it."""
    encoded = tokens(
        list(captions), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = encoded.input_ids
    return ids


def umt5(vocabulary_size: int) -> Any:
    """Wan's kind: relative positions of their own in every layer."""
    return UMT5EncoderModel(UMT5Config(**_settings(vocabulary_size)))


def t5(vocabulary_size: int) -> Any:
    """The kind of CogVideoX and LTX-Video: the first layer's relative positions serve all."""
    return T5EncoderModel(T5Config(**_settings(vocabulary_size)))


def _settings(vocabulary_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary_size,
        "d_model": WIDTH,
        "d_kv": 32,
        "d_ff": 256,
        "num_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "relative_attention_num_buckets": 16,
        "relative_attention_max_distance": 32,
    }


@torch.no_grad()
def take_over(encoder: Any, words: Any, other: Any, other_words: Any) -> None:
    """Start `encoder` from `other`, word by word where both know it, and weight by weight elsewhere."""
    mine, theirs = encoder.state_dict(), other.state_dict()
    for name, value in mine.items():
        if name in theirs and theirs[name].shape == value.shape:
            value.copy_(theirs[name])
    table, old = encoder.get_input_embeddings().weight, other.get_input_embeddings().weight
    ids, old_ids = words.get_vocab(), other_words.get_vocab()
    for word in ids.keys() & old_ids.keys():
        table[ids[word]] = old[old_ids[word]]
