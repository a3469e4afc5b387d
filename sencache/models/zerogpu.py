"""What ZeroGPU changes for whoever loads a model. While a Space starts there is no GPU to ask, and
weights that are placed on it are packed into files beside the Hub's cache: they are on the disk twice.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sencache.errors import SencacheError
from sencache.models.placement import gigabytes

# Above this, weights placed at start-up make ZeroGPU book the double-sized card.
CARD_BYTES = 45_097_156_608


def on_zerogpu() -> bool:
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def check_disk(name: str, fetched: int, packed: int) -> None:
    """Raise SencacheError where `fetched` bytes of `name` in the Hub's cache and `packed` ones beside them
    would fill the disk.
    """
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if fetched + packed <= free:
        return
    there = f"{gigabytes(free)} are free under {place}"
    if packed:
        raise SencacheError(
            f"{name} has {gigabytes(fetched)} to fetch, of which ZeroGPU packs {gigabytes(packed)} again, "
            f"and {there}; name a smaller model, or a repository that holds it in half precision"
        )
    raise SencacheError(
        f"{name} has {gigabytes(fetched)} to fetch and {there}; make room, or set HF_HOME to a larger disk"
    )
