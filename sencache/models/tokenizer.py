"""Whether a checkpoint's tokenizer can be read here, asked before gigabytes of weights are.

transformers blames `tiktoken` for a package that is missing and for a damaged file alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sencache.errors import SencacheError
from sencache.models.checkpoint import FAST, SLOW, unreadable
from sencache.models.spec import ModelSpec


def check_tokenizer(spec: ModelSpec, folder: Path) -> None:
    """Raise SencacheError, naming the package or the file, where the tokenizer in `folder` cannot be read."""
    name = FAST if (folder / FAST).is_file() else SLOW
    read = _reader(spec, name)
    try:
        read(str(folder / name))
    # The tokenizers library raises no narrower class.
    except Exception as error:
        raise unreadable(spec, f"{name} is damaged: {error}", name) from None


def _reader(spec: ModelSpec, name: str) -> Any:
    if name == FAST:
        from tokenizers import Tokenizer

        return Tokenizer.from_file
    try:
        # transformers reads `spiece.model` through the second, which needs protobuf.
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2  # noqa: F401
    # A protobuf that is too old raises a class of its own.
    except Exception as error:
        raise SencacheError(
            f"{spec.key} comes with {name}, and what reads it does not work here ({error}); "
            "run `pip install --upgrade protobuf sentencepiece`"
        ) from None
    return SentencePieceProcessor().load
