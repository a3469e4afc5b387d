"""What is known of the sensitivity files that the SenCache authors publish, and what a user must state."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sencache.errors import SencacheError
from sencache.profiles.constants import CHECKPOINT, Architecture, Shape

OFFICIAL = "Yassaman/SenCache"


# Every official file has as many timesteps.
STEPS = 50


@dataclass(frozen=True)
class Stated:
    """What a user says of a file: a checkpoint's id, its schedule's shift, one sample's latent shape."""

    model: str | None = None
    shift: float | None = None
    latent: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Facts:
    """What a sensitivity file does not say of itself: the checkpoint and schedule it was measured on.

    `samples` stands for a count that the file does not give. An official one is told by its name `file`, by
    its hash, or by `ends`, its first and last timestep, together with `ranges`, the least and the greatest
    J_x_norm and J_t_norm.
    """

    model: str
    architecture: Architecture
    scheduler: str
    config: dict[str, Any]
    shape: Shape
    guidance_scale: float | None = None
    dtype: str | None = None
    samples: int = 1
    file: str = ""
    sha256: str | None = None
    ends: tuple[float, float] | None = None
    ranges: tuple[float, ...] = ()

    @property
    def source(self) -> str:
        return f"{OFFICIAL} (Hub dataset), {self.file}" if self.file else "a SenCache sensitivity file"


def _shape(latent: tuple[int, ...], width: int, height: int, frames: int) -> Shape:
    return Shape(height=height, width=width, frames=frames, latent=latent, elements=math.prod(latent))


# Element counts are the squares of the scales in the authors' code; LTX latents are packed into tokens. The
# paper measures on 8 videos.
_OFFICIAL_FILES = (
    Facts(
        file="sensitivity_wan21.npz",
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        architecture="wan",
        scheduler="UniPCMultistepScheduler",
        config={"flow_shift": 5.0},
        shape=_shape((16, 21, 60, 104), 832, 480, 81),
        guidance_scale=5.0,
        samples=8,
        ends=(999.0, 92.0),
        ranges=(1.0287, 31.9340, 1.9452, 30.9178),
    ),
    Facts(
        file="sensitivity_cogvid.npz",
        model="THUDM/CogVideoX1.5-5B",
        architecture="cogvideox",
        scheduler="the checkpoint's own",
        config={},
        shape=_shape((14, 16, 60, 90), 720, 480, 49),
        guidance_scale=6.0,
        dtype="bfloat16",
        samples=8,
    ),
    Facts(
        file="sensitivity_ltx.npz",
        model="a-r-r-o-w/LTX-Video-0.9.1-diffusers",
        architecture="ltx",
        scheduler="FlowMatchEulerDiscreteScheduler",
        config={"mu": 3.2},
        shape=_shape((8064, 128), 768, 512, 161),
        guidance_scale=3.0,
        dtype="bfloat16",
        samples=8,
        sha256="42cd631394ab1174f595bdfa3052312b65482720b367c7fbb5767742acd36b14",
    ),
)
KNOWN = {facts.file: facts for facts in _OFFICIAL_FILES}


def official_file(architecture: str) -> str | None:
    """The official file that was measured on a model of `architecture`."""
    return next((file for file, known in KNOWN.items() if known.architecture == architecture), None)


# Which entry of a scheduler's configuration is its shift, and how pixels relate to latents: axes of frames,
# height and width in [C, F, H, W] or [F, C, H, W], pixels per latent pixel, frames per latent frame.
SHIFT_KEYS = {"wan": "flow_shift", "ltx": "mu"}
SCHEDULERS = {known.architecture: known.scheduler for known in KNOWN.values()}
GEOMETRY: dict[str, tuple[tuple[int, int, int], int, int]] = {
    "wan": ((1, 2, 3), 8, 4),
    "cogvideox": ((0, 2, 3), 8, 4),
    "ltx": ((1, 2, 3), 32, 8),
}


def facts_of(name: str, sha256: str, timesteps: NDArray[Any], means: NDArray[Any], stated: Stated) -> Facts:
    """What the file called `name` was measured on: as known of an official one, as stated of any other.

    `timesteps` [steps] and `means` [steps, 2] are its J_x and J_t. Raises SencacheError when something needed
    is not stated, when it is stated otherwise than known, and when a file has an official one's name but not
    its schedule or another's numbers.
    """
    called = KNOWN.get(name)
    held = next((k for k in KNOWN.values() if k.sha256 == sha256 or _has_values(k, timesteps, means)), None)
    if called and held not in (None, called):
        raise SencacheError(f"{name} holds the numbers of {held.file}; give it its own name")
    if called and held is None and not _has_schedule(called, timesteps):
        ends = f" from {called.ends[0]:g} to {called.ends[1]:g}" if called.ends else ""
        raise SencacheError(
            f"{name} has {STEPS} timesteps{ends}, this file {len(timesteps)} "
            f"from {timesteps[0]:g} to {timesteps[-1]:g}; "
            "rename it and state its model, shift and latent"
        )
    known = called or held
    if known is None:
        return _stated_facts(name, stated)
    _check_stated(known, stated)
    return known


def _has_values(known: Facts, timesteps: NDArray[Any], means: NDArray[Any]) -> bool:
    if not known.ranges or not _has_schedule(known, timesteps):
        return False
    extremes = np.stack([means.min(axis=0), means.max(axis=0)], axis=1).ravel()
    return bool(np.allclose(extremes, known.ranges, rtol=0, atol=1e-4))


def _has_schedule(known: Facts, timesteps: NDArray[Any]) -> bool:
    ends = (float(timesteps[0]), float(timesteps[-1]))
    return len(timesteps) == STEPS and known.ends in (None, ends)


def _check_stated(known: Facts, stated: Stated) -> None:
    """Raise SencacheError where something else is stated than is known."""
    for what, given, own in (
        ("model", stated.model, known.model),
        ("shift", stated.shift, known.config.get(SHIFT_KEYS.get(known.architecture, ""))),
        ("elements of the latent", stated.latent and math.prod(stated.latent), known.shape.elements),
    ):
        if given is not None and given != own:
            raise SencacheError(
                f"{what} {given} contradicts {known.file}, which was measured at {own}; "
                "leave it away, or rename the file if it is another"
            )


def _stated_facts(name: str, stated: Stated) -> Facts:
    if stated.model is None or stated.latent is None:
        missing = "--model" if stated.model is None else "--latent"
        raise SencacheError(
            f"{name} is none of the official files ({', '.join(KNOWN)}) "
            f"and {missing} is not given; state --model, --latent and, for Wan and LTX, --shift"
        )
    architecture = _architecture(stated.model)
    return Facts(
        model=stated.model,
        architecture=architecture,
        scheduler=SCHEDULERS[architecture],
        config=_shift(architecture, stated.shift),
        shape=_stated_shape(architecture, stated.latent),
    )


def _architecture(model: str) -> Architecture:
    found = [name for name in SCHEDULERS if name in model.lower()]
    if len(found) != 1 or len(model) > 200 or not re.fullmatch(CHECKPOINT, model):
        raise SencacheError(
            f"{model[:60]!r} does not tell its architecture; "
            f"give the id of a checkpoint that names one of {', '.join(SCHEDULERS)}"
        )
    return found[0]


def _shift(architecture: str, shift: float | None) -> dict[str, Any]:
    key = SHIFT_KEYS.get(architecture)
    if (key is None) != (shift is None):
        remedy = "leave --shift away" if key is None else "state it with --shift"
        verb = "have no" if key is None else "need their"
        raise SencacheError(f"{architecture} schedules {verb} shift; {remedy}")
    if shift is not None and not 0 < shift <= 100:
        raise SencacheError(f"a shift of {shift:g} is not between 0 and 100; state that of the schedule")
    return {key: shift} if key else {}


def _stated_shape(architecture: str, latent: Sequence[int]) -> Shape:
    axes, pixels, rate = GEOMETRY[architecture]
    if len(latent) != 4 or not all(1 <= size <= 10_000 for size in latent):
        order = "frames, channels" if axes[0] == 0 else "channels, frames"
        raise SencacheError(f"latent {tuple(latent)} is not four sizes: give {order}, height, width")
    frames, height, width = (latent[axis] for axis in axes)
    packed = (frames * height * width, latent[0]) if architecture == "ltx" else tuple(latent)
    return _shape(packed, width * pixels, height * pixels, (frames - 1) * rate + 1)
