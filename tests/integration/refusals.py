"""What is said when something is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sencache.errors import SencacheError


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(SencacheError) as refused:
        call()
    return str(refused.value)
