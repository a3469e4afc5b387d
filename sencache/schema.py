"""Plain data that several floors share, checked on the way in and printed as JSON on the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from typing_extensions import TypedDict

MAX_PROMPT = 2000
MAX_STEPS = 1000

# What each flow-matching class calls the shift of its schedule towards high noise.
SHIFTS = {"UniPCMultistepScheduler": "flow_shift", "FlowMatchEulerDiscreteScheduler": "shift"}


class Strict(BaseModel):
    """Base of all stored data: unknown keys and numbers that are not finite are refused; immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=(), allow_inf_nan=False
    )


FAULTS = {
    "extra_forbidden": "unknown-key",
    "missing": "missing-key",
    "finite_number": "not-finite",
    "too_long": "wrong-length",
    "too_short": "wrong-length",
    "string_too_long": "wrong-length",
    "string_pattern_mismatch": "bad-name",
    "greater_than": "out-of-range",
    "greater_than_equal": "out-of-range",
    "less_than": "out-of-range",
    "less_than_equal": "out-of-range",
    "literal_error": "unknown-value",
    "json_invalid": "not-json",
    "value_error": "inconsistent",
}


def first_problem(error: ValidationError) -> tuple[str, str, str]:
    """(field, offending value, what is wrong) of the first thing that a check found."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])[:120] or "the file"
    # A key may hold line breaks and the control codes of terminals.
    where = "".join(character if character.isprintable() else "?" for character in where)
    return where, _shorten(problem["input"]), problem["msg"]


def fault(error: ValidationError) -> str:
    """The kind of the first fault that a check found, as the last part of an error code: `unknown-key`,
    `out-of-range`, ...; `wrong-type` for all that have no name of their own.
    """
    return FAULTS.get(error.errors(include_url=False)[0]["type"], "wrong-type")


def _shorten(value: Any) -> str:
    """The first 60 characters of `value`; Python refuses to write integers of thousands of digits."""
    try:
        return str(value)[:60]
    except ValueError:
        return "an integer of thousands of digits"


def _is_none(value: Any) -> bool:
    return value is None


class ModelInfo(Strict):
    """Which checkpoint ran, where, in which precision, and with which sampler.

    `revision` is the Hub's commit, `gpu` what its maker calls the device, `placement` says which parts wait
    outside the GPU, where any do.
    """

    key: str
    id: str
    revision: str | None
    architecture: str
    device: str
    dtype: str
    scheduler: str | None = None
    # Left out where there is none, so that reports from before it existed keep their digest.
    placement: Annotated[str | None, Field(exclude_if=_is_none)] = None
    gpu: Annotated[str | None, Field(exclude_if=_is_none)] = None


class Still(Strict):
    """A picture by its file's name and the hash of its content; its pixels never enter a report."""

    name: str
    sha256: str
    _path: Path | None = PrivateAttr(default=None)

    @property
    def path(self) -> Path | None:
        """Where the file is, None for a still that was read back from a report."""
        return self._path

    def with_path(self, path: Path) -> Still:
        """The same still, with its file."""
        still = self.model_copy()
        still._path = path
        return still


class Request(Strict):
    """One video to make. `nfe` and `preset` are the budget that sets the methods' knobs, if one was asked
    for; `image` is the still to start from, `guidance_scale_2` the scale of a second transformer where it is
    not the first one's.
    """

    prompt: str
    negative_prompt: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    height: int
    width: int
    frames: int
    guidance_scale: Annotated[float, Field(ge=0, le=100)]
    nfe: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    preset: str | None = None
    image: Annotated[Still | None, Field(exclude_if=_is_none)] = None
    guidance_scale_2: Annotated[float | None, Field(ge=0, le=100, exclude_if=_is_none)] = None


class PerFrame(TypedDict):
    """One value per frame; PSNR is None where a frame is identical to the reference's."""

    lpips: list[float]
    psnr: list[float | None]
    ssim: list[float]


class Metrics(Strict):
    """The distance of one clip from a reference clip.

    PSNR is infinite between identical frames, which neither JSON nor a mean can hold. So `psnr` is None when
    the clips are identical, and `psnr_frames` leaves identical frames out and says how many it left out.
    """

    lpips: float
    """Mean over all frames of LPIPS v0.1 (AlexNet): 0 is the same picture, lower is closer."""
    psnr: float | None
    """dB, from the mean squared error over all frames; None where `identical`."""
    psnr_frames: float | None
    """dB, mean of the PSNR of the frames that differ; None where `identical`.

    At least `psnr` when no frame is identical (Jensen); below it at times when some are.
    """
    ssim: float
    """Mean over all frames of SSIM: 1 is the same picture, higher is closer."""
    identical: bool
    """Whether every value of every frame is equal."""
    identical_frames: int
    """How many frames are equal to the reference's, and so are left out of `psnr_frames`."""
    per_frame: PerFrame
