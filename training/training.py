"""The stages of a training: autoencoder, latents, denoiser. Each goes on where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

from sencache.errors import SencacheError
from training import latents as latent_sets
from training import text, wan
from training.autoencoding import Autoencoding, Codec
from training.denoising import Denoising
from training.loop import Loop
from training.preview import Preview

CLIPS = 16_384
STATISTICS = 64  # clips whose latents give their mean and deviation


@dataclass(frozen=True)
class Plan:
    """What to train, for how long, from what.

    `start`: an exported tiny-wan whose weights the training starts from; for the other architectures it is
    also the teacher, whose latents they share. None trains tiny-wan from nothing.
    `autoencoder`: its share of the minutes; 0 keeps the one that the training starts from as it is.
    `autoencoder_from`: an exported model of the same architecture whose autoencoder that is; tiny-wan takes
    that of `start` where none is given.
    """

    family: Any
    folder: Path
    minutes: float
    seed: int = 0
    device: str = "cpu"
    start: Path | None = None
    clips: int = CLIPS
    autoencoder: float = 0.3
    autoencoder_from: Path | None = None

    @property
    def first_autoencoder(self) -> Path | None:
        """The exported model whose autoencoder the training starts from; None when that is untrained."""
        return self.autoencoder_from or (self.start if self.family is wan else None)


def train(plan: Plan) -> dict[str, Any]:
    """All stages; the trained parts by the names that pipelines give them."""
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise SencacheError("device 'cuda' is not available here; train on cpu")
    if not (0 < plan.autoencoder < 1 or (plan.autoencoder == 0 and plan.first_autoencoder)):
        raise SencacheError(
            f"the autoencoder's share is {plan.autoencoder}; give one between 0 and 1, or 0 and an exported "
            "model of the same architecture whose autoencoder is kept"
        )
    torch.manual_seed(plan.seed)
    autoencoder, codec = _wan_autoencoder(plan) if plan.family is wan else _taught_autoencoder(plan)
    encode, encoder = partial(shared_latent, codec, codec.module), latent_sets.fingerprint(codec.module)
    values = latent_sets.make(plan.folder / "latents", plan.clips, plan.seed, encode, encoder)
    parts = {"vae": autoencoder, **_parts(plan)}
    task = Denoising(
        plan.family,
        parts["transformer"],
        parts["text_encoder"],
        parts["tokenizer"],
        values,
        plan.seed,
        device=plan.device,
        preview=Preview(plan.family, autoencoder, parts["tokenizer"]),
    )
    Loop(task, plan.folder, plan.minutes * (1 - plan.autoencoder), every=240).run()
    return parts


# ---- autoencoders, each with the codec that makes the transformer's latents


def _wan_autoencoder(plan: Plan) -> tuple[Any, Codec]:
    codec = _codec(plan)
    if plan.autoencoder:
        task = Autoencoding(codec, plan.seed, device=plan.device)
        Loop(task, plan.folder, plan.minutes * plan.autoencoder).run()
        statistics(codec, plan)
    return codec.module, codec


def _taught_autoencoder(plan: Plan) -> tuple[Any, Codec]:
    """The decoder learns to read tiny-wan's latents and the encoder to write them."""
    teacher = wan.codec(wan.load_autoencoder(str(plan.start)).to(plan.device))
    encode = partial(shared_latent, teacher, teacher.module)
    codec = _codec(plan)
    if plan.autoencoder:
        taught = lambda video: plan.family.from_shared(encode(video))  # noqa: E731
        task = Autoencoding(codec, plan.seed, device=plan.device, teacher=taught)
        Loop(task, plan.folder, plan.minutes * plan.autoencoder).run()
    return codec.module, teacher


def _codec(plan: Plan) -> Codec:
    """Of the autoencoder that the training starts from."""
    folder = plan.first_autoencoder
    module = plan.family.load_autoencoder(str(folder)) if folder else plan.family.autoencoder()
    codec: Codec = plan.family.codec(module.to(plan.device))
    return codec


def encoded(codec: Codec, video: torch.Tensor) -> torch.Tensor:
    """The autoencoder's own latents of clips, wherever it is."""
    device = next(codec.module.parameters()).device
    video = video.to(device).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(device.type, torch.bfloat16):
        return codec.encode(video).float().chunk(2, dim=1)[0]


def shared_latent(codec: Codec, module: Any, video: torch.Tensor) -> torch.Tensor:
    """Normalised latents [N, 16, t, h, w] of clips: what all three transformers learn to make."""
    mean = encoded(codec, video)
    centre, spread = (
        torch.tensor(values, device=mean.device).view(1, -1, 1, 1, 1)
        for values in (module.config.latents_mean, module.config.latents_std)
    )
    return (mean - centre) / spread


def statistics(codec: Codec, plan: Plan) -> None:
    """Write the mean and deviation of each channel of the latents into the autoencoder's configuration."""
    raw, encoder = partial(encoded, codec), latent_sets.fingerprint(codec.module)
    made = latent_sets.make(plan.folder / "statistics", STATISTICS, plan.seed + 1, raw, encoder)
    sample = made.values.float()
    mean, std = (getattr(sample, kind)(dim=(0, 2, 3, 4)).tolist() for kind in ("mean", "std"))
    codec.module.register_to_config(
        latents_mean=[round(v, 5) for v in mean], latents_std=[round(v, 5) for v in std]
    )


# ---- transformer and text


def _parts(plan: Plan) -> dict[str, Any]:
    words = text.tokenizer()
    transformer, encoder = plan.family.transformer(), plan.family.text_encoder(len(words))
    if plan.start:
        other_words = AutoTokenizer.from_pretrained(plan.start, subfolder="tokenizer")
        other = UMT5EncoderModel.from_pretrained(plan.start, subfolder="text_encoder", dtype=torch.float32)
        text.take_over(encoder, words, other, other_words)
        trained = WanTransformer3DModel.from_pretrained(
            plan.start, subfolder="transformer", torch_dtype=torch.float32
        )
        plan.family.start_from(transformer, trained)
    return {
        "transformer": transformer.to(plan.device),
        "text_encoder": encoder.to(plan.device),
        "tokenizer": words,
    }
