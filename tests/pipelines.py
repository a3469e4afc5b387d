"""Small random diffusers pipelines of the three architectures: real classes, no text encoder, latents out.

And a made-up profile, with which every method both computes and reuses on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)

from sencache.architectures import ARCHITECTURES
from sencache.models.model import MODELS, Model
from sencache.policies import Control, EasyCache, Fixed, MagCache, Policy, SenCache, TeaCache
from sencache.policies.firstblock import FirstBlockCache
from sencache.profiles.constants import (
    MagnitudeRatios,
    ModelId,
    Provenance,
    SamplerSchedule,
    SensitivityTable,
    TeaCacheFit,
)
from sencache.profiles.profile import Profile
from sencache.schema import Request

STEPS = 12
NO_PARTS: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "vae": None}
BLOCKS = {"wan": "blocks", "cogvideox": "transformer_blocks", "ltx": "transformer_blocks"}
SIGNALS = {"wan": "time_projection", "cogvideox": "time_embedding", "ltx": "modulated_input"}


@dataclass
class Tiny:
    """A pipeline and the arguments of one reproducible call of it."""

    name: str
    pipe: Any
    arguments: Callable[[int], dict[str, Any]]
    guidance: float

    def __call__(self, *, batch: int = 1, steps: int = STEPS, seed: int = 0, **changes: Any) -> torch.Tensor:
        arguments: dict[str, Any] = {
            "num_inference_steps": steps,
            "guidance_scale": self.guidance,
            "generator": torch.Generator().manual_seed(seed),
            "output_type": "latent",
            **self.arguments(batch),
            **changes,
        }
        return self.pipe(**arguments).frames

    @property
    def blocks(self) -> torch.nn.ModuleList:
        """The transformer's blocks."""
        return self.pipe.transformer.get_submodule(BLOCKS[self.name])

    @property
    def branches(self) -> int:
        """Transformer calls in one guided step."""
        return 2 if self.name == "wan" else 1


def on_gpu(tiny: Tiny, dtype: torch.dtype = torch.float32, device: str = "cuda:0") -> Tiny:
    """The same with its parts and its embeddings on the device, the transformer in `dtype`."""
    tiny.pipe.to(device)
    tiny.pipe.transformer.to(dtype)
    on_host = tiny.arguments

    def moved(value: Any) -> Any:
        if not torch.is_tensor(value):
            return value
        return value.to(device, dtype if value.is_floating_point() else value.dtype)

    return replace(
        tiny, arguments=lambda batch: {name: moved(value) for name, value in on_host(batch).items()}
    )


def _embeds(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator), torch.randn(*shape, generator=generator)


def wan_transformer(in_channels: int = 16, **changes: Any) -> WanTransformer3DModel:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 4}
    others = {"text_dim": 32, "freq_dim": 256, "rope_max_seq_len": 32, "out_channels": 16}
    return WanTransformer3DModel(in_channels=in_channels, **{**sizes, **others, **changes}).eval()


def wan_vae(**changes: Any) -> AutoencoderKLWan:
    sizes: dict[str, Any] = {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return AutoencoderKLWan(**{"temperal_downsample": [False, True, True], **sizes, **changes}).eval()


def unipc() -> UniPCMultistepScheduler:
    """Wan's own scheduler."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )


def wan(scheduler: Any = None, two: bool = False, pipeline: Any = WanPipeline) -> Tiny:
    """Two calls per guided step; with `two`, a high-noise and a low-noise transformer as in Wan 2.2."""
    torch.manual_seed(0)
    experts = {"transformer_2": wan_transformer(), "boundary_ratio": 0.875} if two else {}
    parts = {"scheduler": scheduler or unipc(), "transformer": wan_transformer(), **experts}
    pipe = pipeline(**NO_PARTS, **parts)

    def arguments(batch: int) -> dict[str, Any]:
        prompt, negative = _embeds(batch, 7, 32)
        size = {"height": 16, "width": 16, "num_frames": 9}
        return {"prompt_embeds": prompt, "negative_prompt_embeds": negative, **size}

    return _quiet(Tiny("wan", pipe, arguments, 5.0))


def _cogvideox_transformer(in_channels: int = 4) -> CogVideoXTransformer3DModel:
    return CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=4,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
    ).eval()


def cogvideox_vae(channels: int = 4) -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()


def cogvideox(scheduler: Any = None) -> Tiny:
    """One call of a doubled batch per guided step; two token streams."""
    torch.manual_seed(0)
    parts = {"vae": cogvideox_vae(), "transformer": _cogvideox_transformer()}
    pipe = CogVideoXPipeline(**NO_PARTS | parts, scheduler=scheduler or CogVideoXDDIMScheduler())

    def arguments(batch: int) -> dict[str, Any]:
        prompt, negative = _embeds(batch, 16, 32)
        size = {"height": 16, "width": 16, "num_frames": 8, "max_sequence_length": 16}
        return {"prompt_embeds": prompt, "negative_prompt_embeds": negative, **size}

    return _quiet(Tiny("cogvideox", pipe, arguments, 6.0))


def ltx(scheduler: Any = None, pipeline: Any = LTXPipeline) -> Tiny:
    """One call of a doubled batch per guided step; packed latents."""
    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=4,
        caption_channels=32,
    ).eval()
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler()
    pipe = pipeline(**NO_PARTS, transformer=transformer, scheduler=scheduler)
    pipe.tokenizer_max_length = 16

    def arguments(batch: int) -> dict[str, Any]:
        prompt, negative = _embeds(batch, 16, 32)
        mask = torch.ones(batch, 16, dtype=torch.long)
        masks = {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
        size = {"height": 64, "width": 64, "num_frames": 9}
        return {"prompt_embeds": prompt, "negative_prompt_embeds": negative, **masks, **size}

    return _quiet(Tiny("ltx", pipe, arguments, 3.0))


def _with_image(tiny: Tiny, pipe: Any) -> Tiny:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))

    def arguments(batch: int) -> dict[str, Any]:
        # Wan repeats its one image, CogVideoX wants one per prompt.
        images = image if tiny.name == "wan" else image.expand(batch, -1, -1, -1)
        return {"image": images, **tiny.arguments(batch)}

    return _quiet(Tiny(tiny.name, pipe, arguments, tiny.guidance))


def wan_image() -> Tiny:
    """Image-to-video: 16 channels of latent, then 20 of condition."""
    torch.manual_seed(0)
    parts = {"vae": wan_vae(base_dim=3), "scheduler": unipc(), "transformer": wan_transformer(36)}
    pipe = WanImageToVideoPipeline(**NO_PARTS | parts)
    return _with_image(wan(), pipe)


def cogvideox_image() -> Tiny:
    """Image-to-video: 4 channels of latent, then 4 of condition."""
    torch.manual_seed(0)
    parts = {"vae": cogvideox_vae(), "transformer": _cogvideox_transformer(8)}
    pipe = CogVideoXImageToVideoPipeline(**NO_PARTS | parts, scheduler=CogVideoXDDIMScheduler())
    return _with_image(cogvideox(), pipe)


def ltx_image() -> Tiny:
    """Image-to-video: the first frame's tokens are the image, and stay at timestep 0."""
    tiny = ltx(pipeline=LTXImageToVideoPipeline)
    latents = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(2))

    def arguments(batch: int) -> dict[str, Any]:
        return {"latents": latents.expand(batch, -1, -1), **ltx().arguments(batch)}

    return Tiny(tiny.name, tiny.pipe, arguments, tiny.guidance)


@dataclass
class Prompted(Model):
    """A tiny pipeline as a model of the list; every prompt has the same embeddings."""

    tiny: Tiny = field(kw_only=True)

    def encode(self, prompt: str, negative_prompt: str, guidance_scale: float) -> dict[str, torch.Tensor]:
        """Those that the pipeline's own arguments hold."""
        arguments = self.tiny.arguments(1)
        return {name: arguments[name] for name in ARCHITECTURES[self.tiny.name].encoded}


def model_of(tiny: Tiny) -> Prompted:
    """For everything that takes a model, not a pipeline."""
    spec = replace(MODELS["tiny-wan"], key="random", architecture=tiny.name)
    return Prompted(spec, tiny.pipe, torch.device("cpu"), torch.float32, tiny=tiny)


def request_of(tiny: Tiny, **changes: Any) -> Request:
    """A request for the size that the pipeline's own arguments name."""
    sizes = tiny.arguments(1)
    own = {"height": sizes["height"], "width": sizes["width"], "frames": sizes["num_frames"]}
    return Request(**{"prompt": "any", "steps": STEPS, "guidance_scale": tiny.guidance, **own, **changes})


def _quiet(tiny: Tiny) -> Tiny:
    tiny.pipe.set_progress_bar_config(disable=True)
    return tiny


ALL: dict[str, Callable[[], Tiny]] = {"wan": wan, "cogvideox": cogvideox, "ltx": ltx}
METHODS = ("fixed", "sencache", "magcache", "teacache", "easycache", "control")
TARGETS, FORECASTS = ("residual", "output", "delta"), ("hold", "linear")
# Pipeline, method, target, forecast: every method in every way, and every way on every pipeline.
CROSSED = [
    (name, method, target, forecast)
    for m, method in enumerate(METHODS)
    for w, (target, forecast) in enumerate(product(TARGETS, FORECASTS))
    for n, name in enumerate(ALL)
    if (m + w + n) % 3 == 0
]
FROM_IMAGE: dict[str, Callable[[], Tiny]] = {"wan": wan_image, "cogvideox": cogvideox_image, "ltx": ltx_image}


def profile(name: str, steps: int = STEPS, ratios: tuple[float, ...] | None = None) -> Profile:
    """Constants of the right form for the architecture `name`; those of MagCache may be given."""
    ones, zeros = (1.0,) * steps, (0.0,) * steps
    return Profile(
        schema_="sencache.profile/1",
        model=ModelId(id=f"tiny-{name}", architecture=name),
        schedule=SamplerSchedule(
            scheduler="any", steps=steps, timesteps=tuple(1000 * (1 - i / steps) for i in range(steps))
        ),
        shape=None,
        guidance_scale=None,
        dtype=None,
        sensitivity=SensitivityTable(
            alpha_x=ones,
            alpha_t=(1e-3,) * steps,
            alpha_x_std=zeros,
            alpha_t_std=zeros,
            samples=1,
            target="output",
        ),
        magcache=MagnitudeRatios(ratios=ratios or (1.0,) + (0.97,) * (steps - 1)),
        teacache=TeaCacheFit(coefficients=(1.0, 0.0), signal=SIGNALS[name]),
        calibration=None,
        provenance=Provenance(kind="measured", source="made up", licence="none"),
    )


def lively(name: str) -> dict[str, Policy]:
    """Every caching method, set so that on the pipeline `name` it computes some steps and reuses others."""
    made_up = profile(name)
    tolerance = {"wan": 0.15, "cogvideox": 2.0, "ltx": 0.2}[name]
    return {
        "fixed": Fixed(interval=3),
        "sencache": SenCache(made_up, tolerance=tolerance, early_tolerance=tolerance),
        "magcache": MagCache(made_up),
        "teacache": TeaCache(made_up, threshold={"wan": 0.6, "cogvideox": 1.5, "ltx": 0.2}[name]),
        "easycache": EasyCache(threshold=0.5, forced_first=2),
        "control": Control(
            tolerance={"wan": 1.0, "cogvideox": 0.5, "ltx": 0.5}[name],
            **{"target": "residual", "forecast": "linear", "repair": "none"},
        ),
        "firstblock": FirstBlockCache(threshold={"wan": 0.1, "cogvideox": 0.15, "ltx": 0.12}[name]),
    }


def exact(name: str) -> dict[str, Policy]:
    """Every caching method, set so that it may not reuse anything."""
    made_up = profile(name)
    return {
        "fixed": Fixed(interval=1),
        "sencache": SenCache(made_up, tolerance=0, early_tolerance=0),
        "magcache": MagCache(made_up, threshold=0, retention=0),
        "teacache": TeaCache(made_up, threshold=0),
        "easycache": EasyCache(threshold=0, forced_first=2),
        "control": Control(tolerance=0, target="residual", forecast="linear", repair="none"),
        "firstblock": FirstBlockCache(threshold=0),
    }
