"""Files as the official ones are, small ones of other models, and how they are refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sencache.errors import SencacheError
from sencache.hub.npz import parse_npz
from sencache.hub.official import Stated

WAN_X, WAN_T = (1.0287, 31.9340), (1.9452, 30.9178)
WAN = "sensitivity_wan21.npz"
STATED = Stated("someone/wan-tiny", 3.0, (16, 5, 8, 8))


def wan_timesteps(shift: float = 5.0) -> Any:
    """As in the original Wan code: noise levels from 0.999 towards 0, shifted, cut to integers."""
    levels = np.linspace(0.999, 0, 51)[:-1]
    return (1000 * shift * levels / (1 + (shift - 1) * levels)).astype(np.int64)


def official(**changes: Any) -> dict[str, Any]:
    """Arrays as in the Wan file: its schedule, its dtypes, its ranges."""
    content = {
        "timesteps": wan_timesteps(),
        "J_x_norm": np.geomspace(*WAN_X, 50).astype(np.float32),
        "J_t_norm": np.geomspace(*WAN_T, 50).astype(np.float32)[::-1],
    }
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


def other_official() -> dict[str, Any]:
    """On another schedule of as many steps."""
    return official(timesteps=np.linspace(999, 19, 50))


def packed(content: dict[str, Any], save: Callable[..., None] = np.savez) -> bytes:
    file = io.BytesIO()
    save(file, **content)
    return file.getvalue()


def small(**changes: Any) -> bytes:
    """Four timesteps of a model that is none of the official ones."""
    content = {"timesteps": np.array([900.0, 600, 300, 0.5]), "J_x_norm": np.ones(4), "J_t_norm": np.ones(4)}
    return packed({name: v for name, v in {**content, **changes}.items() if v is not None})


def refusal(data: bytes, name: str = "x.npz", stated: Stated | None = STATED) -> str:
    with pytest.raises(SencacheError) as caught:
        parse_npz(data, name, stated)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)
