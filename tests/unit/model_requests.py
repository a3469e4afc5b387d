"""Requests of the bundled model, and how a wrong one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from sencache.errors import SencacheError
from sencache.models.model import MODELS, ModelSpec, check_request
from sencache.schema import Request, Still

TINY = MODELS["tiny-wan"]
STILL = Still(name="cat.png", sha256="0" * 64)


def request_of(spec: ModelSpec = TINY, **changes: Any) -> Request:
    names = ("steps", "height", "width", "frames", "guidance_scale", "guidance_scale_2")
    own = {name: getattr(spec, name) for name in names} | {"image": STILL if spec.from_image else None}
    return Request(**{"prompt": "a red circle", **own, **changes})


def refusal(**changes: Any) -> str:
    with pytest.raises(SencacheError) as refused:
        check_request(TINY, request_of(**changes))
    return str(refused.value)
