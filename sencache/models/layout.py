"""What a checkpoint's own configuration files say of it: the entry of the list for one that is not on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sencache.architectures import architecture_running, text_encoders
from sencache.architectures.base import Config
from sencache.errors import SencacheError
from sencache.models.spec import ModelSpec

INDEX = "model_index.json"
UNKNOWN = "see the repository"


def describe_folder(folder: Path, source: Path | str, from_image: bool = False) -> ModelSpec:
    """The entry for the checkpoint in `folder`, which is known to the user as `source`.

    Sizes, rules and widths come from the configuration of its VAE and transformer; where it does not say how
    it is meant to be run, from the family it belongs to. `from_image`: a still is to be used, which decides
    for checkpoints that take one or none. Raises SencacheError for pipelines that are not supported.
    """
    index = read_config(folder / INDEX)
    architecture = architecture_running(str(index.get("_class_name")), str(source))
    assert architecture.describe is not None, "a pipeline comes with it"
    transformer, vae = (read_config(folder / part / "config.json") for part in ("transformer", "vae"))
    return ModelSpec(
        **{
            **architecture.defaults,
            **architecture.describe(transformer, vae),
            # Never the whole path: reports carry the key.
            "key": source if isinstance(source, str) else source.name,
            "source": source,
            "pipeline": architecture.choose(index, from_image),
            "architecture": architecture.name,
            "licence": UNKNOWN,
            "parameters": dict.fromkeys(model_parts(index), 0),
        }
    )


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file; raises SencacheError when it is missing or not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SencacheError(
            f"{path.parent} is not a checkpoint in the layout of diffusers ({path.name}: {error.strerror}); "
            f"give a folder with a {INDEX}"
        ) from None
    except ValueError as error:
        raise SencacheError(f"{path} is damaged ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise SencacheError(f"{path} is damaged (no settings in it); fetch it again")
    return content


def model_parts(index: Config) -> list[str]:
    """The parts that have weights."""
    known = (*text_encoders(), "transformer", "transformer_2", "vae", "image_encoder")
    return [part for part in known if isinstance(index.get(part), list) and index[part][0]]
