"""The samplers offered for each architecture, made from the one that a checkpoint comes with."""

from __future__ import annotations

import inspect
from typing import Any

from sencache.architectures import find_architecture
from sencache.errors import SencacheError
from sencache.schema import SHIFTS


def other_scheduler(own: Any, architecture: str, name: str | None, shift: float | None) -> Any:
    """The scheduler `name` with the settings of `own`, and with `shift` where one is given.

    Raises SencacheError for a name that the architecture's pipeline cannot use, and for a shift where the
    schedule has none or computes it from the size of the video.
    """
    if name is None and shift is None:
        return own
    wanted = type(own).__name__ if name is None else _class_name(architecture, name)
    config = {key: value for key, value in own.config.items() if not key.startswith("_")}
    present = config.get(SHIFTS.get(type(own).__name__, ""))
    if wanted in SHIFTS:
        config |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        config[SHIFTS[wanted]] = present
    if shift is not None:
        _check_shift(wanted, config, shift)
        config[SHIFTS[wanted]] = shift
    import diffusers

    cls = getattr(diffusers, wanted)
    taken = inspect.signature(cls.__init__).parameters
    return cls(**{key: value for key, value in config.items() if key in taken and value is not None})


def describe(scheduler: Any) -> str:
    """Class and shift, as in `UniPCMultistepScheduler shift 3`."""
    name = type(scheduler).__name__
    shift = scheduler.config.get(SHIFTS.get(name, ""))
    return (
        name if shift is None or scheduler.config.get("use_dynamic_shifting") else f"{name} shift {shift:g}"
    )


def _class_name(architecture: str, name: str) -> str:
    known = find_architecture(architecture).samplers
    if name not in known:
        raise SencacheError(f"unknown scheduler {name!r}; this model takes {', '.join(known)}")
    return known[name]


def _check_shift(wanted: str, config: dict[str, Any], shift: float) -> None:
    if wanted not in SHIFTS or config.get("use_dynamic_shifting"):
        raise SencacheError(f"{wanted} takes no shift here, and {shift:g} was asked for; leave --shift out")
    if not 0 < shift <= 100:
        raise SencacheError(f"a shift of {shift:g} is out of range; give one above 0 and up to 100")
