"""The models offered, and how each is loaded and called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sencache.errors import SencacheError
from sencache.library import bundled_profile
from sencache.profile import Profile, load_profile
from sencache.schedulers import describe, other_scheduler
from sencache.schema import MAX_PROMPT, ModelInfo, Request

ASSETS = Path(__file__).parent / "assets"

# What each pipeline's `encode_prompt` returns, in order, under the names by which its `__call__` takes it
# back.
ENCODED = {
    "wan": ("prompt_embeds", "negative_prompt_embeds"),
    "cogvideox": ("prompt_embeds", "negative_prompt_embeds"),
    "ltx": (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    ),
}


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the list: where the weights are, what they were made for, and which requests they take.

    Sizes must be multiples of `size_multiple` pixels, frames `temporal_factor * k + 1`.
    """

    key: str
    summary: str
    source: Path
    architecture: str
    licence: str
    height: int
    width: int
    frames: int
    fps: int
    steps: int
    guidance_scale: float
    size_multiple: int
    temporal_factor: int
    min_side: int
    max_side: int
    max_frames: int
    max_sequence_length: int
    calibration_prompts: tuple[str, ...]
    profile: str | None = None


TINY_PROMPTS = (
    "a red circle moving right, on a black background",
    "a small blue square moving up, on a gray background",
    "a green triangle bouncing up and down, on a checkered background",
    "a large yellow square spinning, on a black background",
    "a purple circle growing, on a white background",
    "an orange square moving side to side, and a cyan circle standing still, on a striped background",
    "a pink triangle moving in a circle, on a gray background",
    "a small cyan triangle moving left, and a red square shrinking, on a black background",
)


def _tiny(architecture: str, classes: str, profile: str, size_multiple: int) -> ModelSpec:
    """A bundled model; all are trained on the same clips."""
    return ModelSpec(
        key=f"tiny-{architecture}",
        summary=f"bundled: moving shapes, 64x64, 17 frames; {classes} classes, seconds on a CPU",
        source=ASSETS / f"tiny-{architecture}",
        architecture=architecture,
        licence="apache-2.0",
        height=64,
        width=64,
        frames=17,
        fps=8,
        steps=50,
        guidance_scale=4.0,
        size_multiple=size_multiple,
        temporal_factor=4,
        min_side=32,
        max_side=256,
        max_frames=81,
        max_sequence_length=32,
        calibration_prompts=TINY_PROMPTS,
        profile=f"tiny-{architecture}.{profile}",
    )


MODELS = {
    spec.key: spec
    for spec in (
        _tiny("wan", "Wan 2.1", "unipc-50", size_multiple=16),
        _tiny("ltx", "LTX-Video", "euler-50", size_multiple=32),
    )
}


def model_spec(key: str) -> ModelSpec:
    """The entry named `key`; raises SencacheError naming the models there are."""
    if key not in MODELS:
        raise SencacheError(f"unknown model {key!r}; choose from {', '.join(MODELS)}")
    return MODELS[key]


def own_profile(spec: ModelSpec) -> Profile | None:
    """The calibrated profile that comes with the model, if any."""
    return load_profile(bundled_profile(spec.profile)) if spec.profile else None


def check_request(spec: ModelSpec, request: Request) -> None:
    """Refuse what `spec` cannot make, before anything is loaded; raises SencacheError with value
    and remedy.
    """
    if not request.prompt.strip():
        raise SencacheError("the prompt is empty; describe the video in a few words")
    _check_text("prompt", request.prompt)
    _check_text("negative prompt", request.negative_prompt)
    if request.nfe is not None and request.nfe > request.steps:
        raise SencacheError(
            f"a budget of {request.nfe} evaluations exceeds the {request.steps} steps; lower it"
        )
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
    multiple = spec.size_multiple
    if value % multiple == 0 and spec.min_side <= value <= spec.max_side:
        return
    nearest = min(max(round(value / multiple) * multiple, spec.min_side), spec.max_side)
    raise SencacheError(
        f"{spec.key} cannot make a {name} of {value} pixels; "
        f"use a multiple of {multiple} from {spec.min_side} to {spec.max_side}, for example {nearest}"
    )


@dataclass
class Model:
    """A loaded pipeline and its entry in the list."""

    spec: ModelSpec
    pipe: Any
    device: torch.device
    dtype: torch.dtype

    def info(self) -> ModelInfo:
        """What a report says of the model."""
        return ModelInfo(
            key=self.spec.key,
            id=self.spec.source.name,
            revision=None,
            architecture=self.spec.architecture,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            scheduler=describe(self.pipe.scheduler),
        )

    def encode(self, prompt: str, negative_prompt: str, guidance_scale: float) -> dict[str, torch.Tensor]:
        """Prompt embeddings as keyword arguments of the pipeline, made once and shared by all lanes."""
        with torch.no_grad():
            encoded = self.pipe.encode_prompt(
                prompt,
                negative_prompt,
                do_classifier_free_guidance=guidance_scale > 1,
                max_sequence_length=self.spec.max_sequence_length,
                device=self.device,
            )
        names = ENCODED[self.spec.architecture]
        return {name: value for name, value in zip(names, encoded, strict=True) if value is not None}

    def generate(
        self,
        pipe: Any,
        encoded: dict[str, torch.Tensor],
        request: Request,
        callback: Callable[..., dict[str, Any]] | None = None,
        output_type: str = "np",
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One call of `pipe`, this model's or a lane's copy: frames [T, H, W, 3] in 0..1 as float32, or the
        latent.

        The noise comes from a CPU generator seeded anew, so it is the same in every lane and on every device.
        """
        video = pipe(
            **encoded,
            height=request.height,
            width=request.width,
            num_frames=request.frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
            output_type=output_type,
            callback_on_step_end=callback,
        ).frames
        return np.asarray(video[0], dtype=np.float32)


def load(key: str, device: str = "cpu", scheduler: str | None = None, shift: float | None = None) -> Model:
    """Load the model `key` from disk onto `device`; raises SencacheError when either is not there.

    The weights are stored in half precision and run in float32 on a CPU, in bfloat16 on a GPU. `scheduler`
    and `shift` replace the checkpoint's own.
    """
    spec = model_spec(key)
    target = _device(device)
    dtype = torch.float32 if target.type == "cpu" else torch.bfloat16
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe = _load_pipeline(spec.source, dtype)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SencacheError(
            f"the weights of {key} cannot be read ({reason}); install the package again"
        ) from None
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = other_scheduler(pipe.scheduler, spec.architecture, scheduler, shift)
    return Model(spec, pipe.to(target), target, dtype)


def _load_pipeline(source: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    return DiffusionPipeline.from_pretrained(
        str(source), torch_dtype=dtype, local_files_only=True, use_safetensors=True
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise SencacheError(f"unknown device {name!r}; use cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SencacheError(
            f"device {name!r} is not available here; use cpu or install a CUDA build of torch"
        )
    return device
