"""A trained model -> a diffusers pipeline folder in half precision, small enough to be bundled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sencache.errors import SencacheError

FILE_LIMIT, MODEL_LIMIT = 10_000_000, 20_000_000


def export(family: Any, parts: dict[str, Any], folder: Path) -> None:
    """Save the pipeline of `parts` in bfloat16; raises SencacheError when it is too large to be bundled."""
    ready = {name: part.eval() if isinstance(part, torch.nn.Module) else part for name, part in parts.items()}
    # Training left its padding in the tokenizer; every pipeline asks for its own.
    rules: Any = parts["tokenizer"].backend_tokenizer
    rules.no_padding()
    rules.no_truncation()
    pipe = family.pipeline(ready).to("cpu", torch.bfloat16)
    pipe.save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("*/config.json"):
        _forget_origin(path)
    check_sizes(folder)


def _forget_origin(path: Path) -> None:
    """Where a part was read from before means nothing elsewhere."""
    config = json.loads(path.read_text())
    if config.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(config, indent=2) + "\n")


def check_sizes(folder: Path) -> None:
    """Raises SencacheError naming the file, or the folder, that is too large."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    large = {path: size for path, size in sizes.items() if size > FILE_LIMIT}
    if sum(sizes.values()) > MODEL_LIMIT:
        large[folder] = sum(sizes.values())
    for path, size in large.items():
        raise SencacheError(
            f"{path} has {size:,} bytes; use a smaller model: a file may have {FILE_LIMIT:,}, "
            f"a model {MODEL_LIMIT:,}"
        )
