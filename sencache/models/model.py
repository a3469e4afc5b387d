"""A loaded model: what it says of itself, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sencache.architectures import find_architecture
from sencache.models.catalogue import MODELS, model_spec
from sencache.models.checkpoint import find_spec, revision_of, weights_folder
from sencache.models.checks import check_request
from sencache.models.loading import (
    choose_dtype,
    choose_placement,
    encoder_at_hand,
    find_device,
    load_pipeline,
    torch_dtype,
)
from sencache.models.placement import Placement
from sencache.models.schedulers import describe, other_scheduler
from sencache.models.sharing import Encoded, one_encoding
from sencache.models.spec import ASSETS, ModelSpec
from sencache.models.stills import still_pixels
from sencache.policies.loading import load_bundled
from sencache.profiles.library import bundled_profiles
from sencache.profiles.profile import Profile
from sencache.schema import ModelInfo, Request

__all__ = [
    "ASSETS",
    "MODELS",
    "Model",
    "ModelSpec",
    "check_request",
    "load",
    "model_spec",
    "own_profile",
]

Callback = Callable[..., dict[str, Any]]


def own_profile(spec: ModelSpec) -> Profile | None:
    """The profile for the model that comes with this software, if any."""
    return load_bundled(spec.profile) if spec.profile in bundled_profiles() else None


@dataclass
class Model:
    """A loaded pipeline and its entry in the list.

    `placement` says which parts wait outside the GPU; a text encoder that does is kept here, not in `pipe`.
    """

    spec: ModelSpec
    pipe: Any
    device: torch.device
    dtype: torch.dtype
    revision: str | None = None
    placement: Placement | None = None
    text_encoder: Any = None

    def info(self) -> ModelInfo:
        """What a report says of the model."""
        return ModelInfo(
            key=self.spec.key,
            id=self.spec.id,
            revision=self.revision,
            architecture=self.spec.architecture,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            scheduler=describe(self.pipe.scheduler),
            placement=str(self.placement) if self.placement else None,
            gpu=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None,
        )

    def encode(self, prompt: str, negative_prompt: str, guidance_scale: float) -> Encoded:
        """Prompt embeddings as keyword arguments of the pipeline, made once and shared by all lanes.

        So is what the first lane makes of a still.
        """
        architecture = find_architecture(self.spec.architecture)
        with (
            torch.no_grad(),
            encoder_at_hand(self.pipe, self.text_encoder, self.device, self.placement),
        ):
            encoded = architecture.encode(
                self.pipe,
                prompt,
                negative_prompt,
                guidance_scale,
                max_sequence_length=self.spec.max_sequence_length,
                device=self.device,
            )
        named = zip(architecture.encoded, encoded, strict=True)
        return Encoded({name: value for name, value in named if value is not None})

    def generate(
        self,
        pipe: Any,
        encoded: dict[str, torch.Tensor],
        request: Request,
        callback: Callback | None = None,
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One call of `pipe`, this model's or a lane's copy: frames [T, H, W, 3] in 0..1 as float32.

        The noise comes from a CPU generator seeded anew, so it is the same in every lane and on every device.
        """
        return np.asarray(self._call(pipe, encoded, request, callback, "np"), dtype=np.float32)

    def latent(
        self,
        pipe: Any,
        encoded: dict[str, torch.Tensor],
        request: Request,
        callback: Callback | None = None,
    ) -> torch.Tensor:
        """As `generate`, but undecoded: the sample's last latent, on its device and in its precision."""
        latent: torch.Tensor = self._call(pipe, encoded, request, callback, "latent")
        return latent

    def _call(
        self,
        pipe: Any,
        encoded: dict[str, torch.Tensor],
        request: Request,
        callback: Callback | None,
        output_type: str,
    ) -> Any:
        still = request.image.sha256 if request.image else None
        key = (still, request.seed, request.height, request.width, request.frames)
        with one_encoding(pipe, encoded, key) if still else nullcontext():
            video = pipe(
                **encoded,
                **self._conditions(request),
                **self.spec.call,
                height=request.height,
                width=request.width,
                num_frames=request.frames,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                generator=torch.Generator().manual_seed(request.seed),
                output_type=output_type,
                callback_on_step_end=callback,
            ).frames
        return video[0]

    def _conditions(self, request: Request) -> dict[str, Any]:
        """Arguments that only some pipelines take."""
        given: dict[str, Any] = {}
        if request.image is not None:
            given["image"] = still_pixels(request.image, request.height, request.width)
        if request.guidance_scale_2 is not None:
            given["guidance_scale_2"] = request.guidance_scale_2
        return given


def load(
    key: str | ModelSpec,
    device: str = "cpu",
    scheduler: str | None = None,
    shift: float | None = None,
    dtype: str | None = None,
    request: Request | None = None,
) -> Model:
    """Load a model of the list, a folder, or a repository of the Hub (`owner/name`) onto `device`.

    Weights that are not on this machine are fetched. They run in float32 on a CPU, in the model's own
    precision on a GPU, or in `dtype` (bf16, fp16, fp32). Where they do not fit the GPU's free memory beside
    the work that `request` takes (a video of the model's own size, if none is given), parts wait in RAM:
    `Model.placement` says which. `scheduler` and `shift` replace the model's own. Raises
    SencacheError, before anything is loaded, where device, files or memory are missing.
    """
    spec = find_spec(key) if isinstance(key, str) else key
    target = find_device(device)
    single = choose_dtype(spec, target, dtype)
    folder = weights_folder(spec)
    placement = choose_placement(spec, folder, target, single, request)
    pipe = load_pipeline(spec, folder, target, single, placement)
    shift = spec.shift if shift is None else shift
    pipe.scheduler = other_scheduler(pipe.scheduler, spec.architecture, scheduler, shift)
    aside = None
    if placement and placement.text_encoder == "host":
        aside, pipe.text_encoder = pipe.text_encoder, None
    main = torch_dtype(single or spec.dtype)
    return Model(spec, pipe, target, main, revision_of(folder), placement, aside)
