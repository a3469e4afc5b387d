"""Step caching for video diffusion transformers.

    with sencache.attach(pipe, sencache.SenCache(profile, tolerance=0.1, max_reuses=3)) as trace:
        video = pipe(prompt, num_frames=81).frames[0]

The names below are loaded when first used, so that importing the package, and `--help`, cost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sencache.calibration.profiling import CalibrationPlan, calibrate
    from sencache.comparison.compare import compare
    from sencache.comparison.plan import parse_lanes
    from sencache.comparison.report import Report, load_report
    from sencache.engine.attach import attach
    from sencache.errors import SencacheError
    from sencache.forecasts import Forecast
    from sencache.models.model import load
    from sencache.models.stills import read_still
    from sencache.policies import Control, EasyCache, Fixed, Full, MagCache, SenCache, TeaCache
    from sencache.policies.base import Policy, register
    from sencache.policies.firstblock import FirstBlockCache
    from sencache.policies.loading import load_profile
    from sencache.policies.seacache import SeaCache
    from sencache.policies.senses import Sense
    from sencache.policies.targets import Target
    from sencache.profiles.profile import Profile, write_profile
    from sencache.repair import Repair
    from sencache.schema import Request
    from sencache.trace import StepRecord, Trace

__version__ = "0.1.0"

_HOMES = {
    "Control": "policies",
    "EasyCache": "policies",
    "Fixed": "policies",
    "Full": "policies",
    "MagCache": "policies",
    "Profile": "profiles.profile",
    "StepRecord": "trace",
    "Report": "comparison.report",
    "Request": "schema",
    "SenCache": "policies",
    "SencacheError": "errors",
    "TeaCache": "policies",
    "Trace": "trace",
    "attach": "engine.attach",
    "calibrate": "calibration.profiling",
    "CalibrationPlan": "calibration.profiling",
    "compare": "comparison.compare",
    "load": "models.model",
    "load_profile": "policies.loading",
    "load_report": "comparison.report",
    "parse_lanes": "comparison.plan",
    "read_still": "models.stills",
    "write_profile": "profiles.profile",
    "register": "policies.base",
    "Policy": "policies.base",
    "Sense": "policies.senses",
    "Target": "policies.targets",
    "Forecast": "forecasts",
    "Repair": "repair",
    "FirstBlockCache": "policies.firstblock",
    "SeaCache": "policies.seacache",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sencache' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sencache.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


__all__ = [
    "CalibrationPlan",
    "Control",
    "EasyCache",
    "FirstBlockCache",
    "Fixed",
    "Forecast",
    "Full",
    "MagCache",
    "Policy",
    "Profile",
    "Repair",
    "Report",
    "Request",
    "SeaCache",
    "SenCache",
    "SencacheError",
    "Sense",
    "StepRecord",
    "Target",
    "TeaCache",
    "Trace",
    "attach",
    "calibrate",
    "compare",
    "load",
    "load_profile",
    "load_report",
    "parse_lanes",
    "read_still",
    "register",
    "write_profile",
]
