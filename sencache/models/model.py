"""A loaded model: what it says of itself, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sencache.architectures import find_architecture
from sencache.models import loading
from sencache.models.catalogue import MODELS
from sencache.models.checkpoint import find_spec, revision_of, weights_folder
from sencache.models.checks import check_request
from sencache.models.placement import Placement
from sencache.models.spec import ASSETS, ModelSpec
from sencache.models.stills import still_pixels
from sencache.policies.loading import load_bundled
from sencache.profiles.library import bundled_profiles
from sencache.profiles.profile import Profile
from sencache.schema import ModelInfo, Request

__all__ = ["ASSETS", "MODELS", "Model", "ModelSpec", "check_request", "load", "own_profile"]

Callback = Callable[..., dict[str, Any]]


def own_profile(spec: ModelSpec) -> Profile | None:
    """The profile for the model that comes with this software, if any."""
    return load_bundled(spec.profile) if spec.profile in bundled_profiles() else None


class Encoded(dict[str, torch.Tensor]):
    """Prompt embeddings as keyword arguments of a pipeline, with what its calls made of a still so far."""

    def __init__(self, embeddings: dict[str, torch.Tensor]) -> None:
        super().__init__(embeddings)
        self.made: dict[tuple[Any, ...], tuple[Any, torch.Tensor | None]] = {}


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
            scheduler=loading.describe_scheduler(self.pipe.scheduler),
            placement=str(self.placement) if self.placement else None,
            gpu=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None,
        )

    def encode(self, prompt: str, negative_prompt: str, guidance_scale: float) -> Encoded:
        """Prompt embeddings as keyword arguments of the pipeline, made once and shared by all lanes.

        So is what the first lane makes of a still.
        """
        architecture = find_architecture(self.spec.architecture)
        options = {"max_sequence_length": self.spec.max_sequence_length, "device": self.device}
        place = loading.encoder_at_hand(self.pipe, self.text_encoder, self.device, self.placement)
        with torch.no_grad(), place:
            encoded = architecture.encode(self.pipe, prompt, negative_prompt, guidance_scale, **options)
        named = zip(architecture.encoded, encoded, strict=True)
        return Encoded({name: value for name, value in named if value is not None})

    def generate(
        self, pipe: Any, encoded: dict[str, torch.Tensor], request: Request, callback: Callback | None = None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One call of `pipe`, this model's or a lane's copy: frames [T, H, W, 3] in 0..1 as float32.

        The noise comes from a CPU generator seeded anew, so it is the same in every lane and on every device.
        """
        return np.asarray(self._call(pipe, encoded, request, callback, "np"), dtype=np.float32)

    def latent(
        self, pipe: Any, encoded: dict[str, torch.Tensor], request: Request, callback: Callback | None = None
    ) -> torch.Tensor:
        """As `generate`, but undecoded: the sample's last latent, on its device and in its precision."""
        latent: torch.Tensor = self._call(pipe, encoded, request, callback, "latent")
        return latent

    def _call(self, pipe: Any, encoded: Any, request: Request, callback: Any, output_type: str) -> Any:
        # Arguments that only some pipelines take.
        special: dict[str, Any] = dict(self.spec.call)
        shared: Any = nullcontext()
        if request.image is not None:
            special["image"] = still_pixels(request.image, request.height, request.width)
            key = (request.image.sha256, request.seed, request.height, request.width, request.frames)
            shared = _encode_still_once(pipe, encoded, key)
        if request.guidance_scale_2 is not None:
            special["guidance_scale_2"] = request.guidance_scale_2
        with shared:
            video = pipe(
                **encoded,
                **special,
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


@contextmanager
def _encode_still_once(pipe: Any, encoded: dict[str, torch.Tensor], key: tuple[Any, ...]) -> Iterator[None]:
    """Inside the block `pipe` encodes no still that a call with the same `key` and embeddings has encoded.

    diffusers takes prompts that are encoded already, but no stills: every call runs the still through the
    image encoder and, as the first of as many frames as the video has, through the VAE. On a lane's own copy
    of the pipeline these two methods answer with what the first lane got from them.
    """
    encoders = ("encode_image", "prepare_latents") if isinstance(encoded, Encoded) else ()
    names = [name for name in encoders if hasattr(pipe, name)]
    for name in names:
        pipe.__dict__[name] = _remember(getattr(pipe, name), encoded, (name, *key))
    try:
        yield
    finally:
        for name in names:
            del pipe.__dict__[name]


def _remember(own: Callable[..., Any], encoded: Any, key: tuple[Any, ...]) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        generator = next((value for value in given if isinstance(value, torch.Generator)), None)
        if key not in encoded.made:
            value = own(*args, **kwargs)
            encoded.made[key] = _copy(value), generator.get_state() if generator else None
            return value
        value, state = encoded.made[key]
        # Samplers may draw on from where the noise left off.
        if generator is not None:
            generator.set_state(state)
        return _copy(value)

    return answer


def _copy(value: Any) -> Any:
    """The tensor, or the tuple of tensors, in memory of its own."""
    return value.clone() if isinstance(value, torch.Tensor) else tuple(each.clone() for each in value)


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
    target = loading.find_device(device)
    single = loading.choose_dtype(spec, target, dtype)
    folder = weights_folder(spec)
    placement = loading.choose_placement(spec, folder, target, single, request)
    pipe = loading.load_pipeline(spec, folder, target, single, placement)
    shift = spec.shift if shift is None else shift
    pipe.scheduler = loading.other_scheduler(pipe.scheduler, spec.architecture, scheduler, shift)
    aside = None
    if placement and placement.text_encoder == "host":
        aside, pipe.text_encoder = pipe.text_encoder, None
    main = getattr(torch, single or spec.dtype)
    return Model(spec, pipe, target, main, revision_of(folder), placement, aside)
