"""How signals come to the host."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sencache.policies.senses import Sense


def fetch(senses: Iterable[Sense]) -> dict[str, float]:
    """The signals of all `senses` as Python floats, in one transfer from the device."""
    found = {name: value for sense in senses for name, value in sense.values().items()}
    if len(found) <= 1:
        return {name: value.item() for name, value in found.items()}
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
