"""Requests that a model cannot make, refused before anything is loaded."""

from __future__ import annotations

from sencache.architectures import find_architecture
from sencache.errors import SencacheError
from sencache.models.spec import ModelSpec
from sencache.schema import MAX_PROMPT, Request


def check_request(spec: ModelSpec, request: Request) -> None:
    """Raises SencacheError, with value and remedy, for what `spec` cannot make."""
    if not request.prompt.strip():
        raise SencacheError("the prompt is empty; describe the video in a few words")
    _check_text("prompt", request.prompt)
    _check_text("negative prompt", request.negative_prompt)
    if request.nfe is not None and request.nfe > request.steps:
        raise SencacheError(
            f"a budget of {request.nfe} evaluations exceeds the {request.steps} steps; lower it"
        )
    if request.nfe is not None and request.preset is not None:
        raise SencacheError(
            f"a budget of {request.nfe} evaluations and the preset {request.preset!r} would both set the "
            "methods' knobs; give only one of them"
        )
    if request.negative_prompt and find_architecture(spec.architecture).embedded_guidance:
        raise SencacheError(
            f"{spec.key} is guided by one prompt alone and cannot use the negative prompt "
            f"{request.negative_prompt[:40]!r}; leave it out"
        )
    if spec.from_image and request.image is None:
        raise SencacheError(f"{spec.key} makes a video from a still and none is given; give one as the image")
    if not spec.from_image and request.image is not None:
        raise SencacheError(
            f"{spec.key} makes videos from text alone and cannot use the image {request.image.name!r}; "
            "leave it out or choose an image-to-video model"
        )
    if request.guidance_scale_2 is not None and "transformer_2" not in spec.parameters:
        raise SencacheError(f"{spec.key} has no second transformer; leave the second guidance scale out")
    _check_frames(spec, request.frames)
    _check_side(spec, "height", request.height)
    _check_side(spec, "width", request.width)


def _check_text(name: str, text: str) -> None:
    if len(text) > MAX_PROMPT:
        raise SencacheError(f"the {name} has {len(text):,} characters; shorten it to at most {MAX_PROMPT:,}")
    if text != text.encode("utf-8", "replace").decode():
        raise SencacheError(f"the {name} {text[:20]!r} is not valid text; type it again")


def _check_frames(spec: ModelSpec, frames: int) -> None:
    factor = spec.temporal_factor
    if frames % factor == 1 and 1 <= frames <= spec.max_frames:
        return
    nearest = min(max(round((frames - 1) / factor) * factor + 1, 1), spec.max_frames)
    raise SencacheError(
        f"{spec.key} cannot make {frames} frames; "
        f"use {factor}k+1 up to {spec.max_frames}, for example {nearest}"
    )


def _check_side(spec: ModelSpec, name: str, value: int) -> None:
    multiple, own = spec.size_multiple, getattr(spec, name)
    if spec.fixed_size and value != own:
        raise SencacheError(f"{spec.key} cannot make a {name} of {value} pixels; its only {name} is {own}")
    if value % multiple == 0 and spec.min_side <= value <= spec.max_side:
        return
    nearest = min(max(round(value / multiple) * multiple, spec.min_side), spec.max_side)
    raise SencacheError(
        f"{spec.key} cannot make a {name} of {value} pixels; "
        f"use a multiple of {multiple} from {spec.min_side} to {spec.max_side}, for example {nearest}"
    )
