"""What torch.compile may see of the engine.

The bookkeeping changes its state at every call: traced, it would be compiled anew from step to step until the
compiler's limit. So it is closed to it, and the blocks, which are the same at every step, stay open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def closed(function: Function) -> Function:
    """Neither `function` nor what it calls is traced."""
    return cast(Function, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


def closed_to_itself(function: Function) -> Function:
    """`function` is not traced; the modules that it calls are."""
    return cast(Function, torch.compiler.disable(function, recursive=False))  # type: ignore[no-untyped-call]
