"""Where a model's parts are kept, chosen from the memory that is free. Pure arithmetic; loads no framework.

What weights take is exact. What a run takes on top is a rule of thumb computed from shapes: nothing here was
measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sencache.architectures import find_architecture
from sencache.architectures.base import Decoder
from sencache.errors import SencacheError
from sencache.models.spec import ModelSpec

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TRANSFORMERS = ("transformer", "transformer_2")
# CUDA's own context, libraries' workspaces, and what the allocator cannot use.
RESERVE = 1 * GIB
# Encoding a prompt of some hundred tokens.
ENCODE = GIB // 2
# What a comparison is planned for: the caching lanes of the command line's default, and what each keeps on
# average: a residual per guidance branch, and where it extrapolates a second one.
LANES, KEPT = 7, 3
# Residuals that are held while a full run is recorded for a budget or a calibration, on top of every step's
# latent and output; a test holds the number to the recorder's own.
RECORDED = 18
# Latents that a pipeline under way and its sampler hold for themselves: predictions, guesses, copies.
OWN = 12
# torch rounds every piece of pinned memory up to a power of two.
PINNED = 2


@dataclass(frozen=True)
class Work:
    """Bytes that a run takes on top of the weights. `step`: one block's activations. `lanes`: what all
    caching lanes together keep. `recorder`: what a full run on record holds until its last step. `latents`:
    the full run's, which stay throughout, as the others are held against them, and those of the lane that is
    running. `decode`: a video whole, or in tiles.
    """

    step: int
    lanes: int
    recorder: int
    latents: int
    decode: int
    decode_tiled: int

    @classmethod
    def of(cls, spec: ModelSpec, dtype: str | None = None, lanes: int = LANES) -> Work:
        """At the size in `spec`, for so many caching lanes; without decoding where nobody knows the VAE."""
        size = BYTES[dtype or spec.dtype]
        vae = spec.vae_values * BYTES[dtype or spec.dtypes.get("vae", spec.dtype)]
        architecture = find_architecture(spec.architecture)
        count, batch = tokens(spec), 2 if architecture.doubles_batch else 1
        # Latents are in float32, whatever the network computes in.
        residual, latent = count * spec.inner * size, count * spec.token_values * 4
        pixels, decoder = spec.height * spec.width, architecture.decoder or Decoder(None, 0, 0)
        video = 2 * 3 * 4 * pixels * spec.frames
        return cls(
            step=count * (8 * spec.inner + 2 * spec.feed_forward) * size * batch,
            lanes=lanes * (KEPT * residual + OWN * latent),
            recorder=RECORDED * residual + spec.steps * (latent + latent * size // 4),
            latents=(spec.steps + OWN) * latent,
            decode=decoder.bytes(pixels, spec.frames, vae) + video,
            decode_tiled=decoder.bytes(min(pixels, decoder.tile), spec.frames, vae) + video,
        )

    def peak(self, tiled: bool = False) -> int:
        """The most at once: a step of the run on record or of the last lane, or one lane that decodes beside
        what the others keep: fewer steps are done before they are.
        """
        decode = self.decode_tiled if tiled else self.decode
        return self.latents + max(self.step + max(self.lanes, self.recorder), decode + self.lanes)


def tokens(spec: ModelSpec) -> int:
    """Of one video at the size in `spec`."""
    latent_frames = (spec.frames - 1) // spec.temporal_compression + 1
    side = spec.token_side or spec.size_multiple
    area = (spec.height // side) * (spec.width // side)
    return -(-latent_frames // spec.temporal_patch) * area


@dataclass(frozen=True)
class Weights:
    """Bytes of every part; `blocks` of them are the transformers' blocks, `block` is the largest one."""

    parts: Mapping[str, int]
    blocks: int
    block: int

    @classmethod
    def of(cls, spec: ModelSpec, dtype: str | None = None) -> Weights:
        """From the counts of the list, as if a transformer were nothing but blocks."""
        dtypes = {name: dtype or spec.dtypes.get(name, spec.dtype) for name in spec.parameters}
        parts = {name: count * BYTES[dtypes[name]] for name, count in spec.parameters.items()}
        transformers = [parts.get(name, 0) for name in TRANSFORMERS]
        # No model of the list has fewer than 28 blocks.
        return cls(parts, sum(transformers), max(transformers) // 28)

    @property
    def total(self) -> int:
        return sum(self.parts.values())


TextEncoder = Literal["device", "host"]
Transformers = Literal["device", "swapped", "streamed", "blocks"]

WORDS = {
    ("device", "device"): "all parts on the GPU",
    ("host", "device"): "text encoder in RAM but while it encodes",
    ("host", "swapped"): "text encoder in RAM but while it encodes, when the transformer makes room for it",
    ("host", "streamed"): "text encoder in RAM but while it encodes, transformer blocks moved in one ahead",
    ("host", "blocks"): "text encoder in RAM but while it encodes, transformer blocks moved in one at a time",
}


@dataclass(frozen=True)
class Placement:
    """Where the parts are kept, the most that this takes on the GPU, and what stays in RAM, in bytes.

    Blocks are `streamed` from pinned memory, each while the one before it computes, or moved in when they are
    called, which waits for every one of them.
    """

    text_encoder: TextEncoder
    transformers: Transformers
    tiled: bool
    device_bytes: int = field(compare=False)
    host_bytes: int = field(compare=False)

    def __str__(self) -> str:
        vae = ", VAE in tiles" if self.tiled else ""
        return f"{WORDS[self.text_encoder, self.transformers]}{vae}"


# What changes nothing but the time comes before tiles, which change pixels a little, and moved blocks last:
# tiles cost less than blocks that are waited for.
CHOICES: Sequence[tuple[TextEncoder, Transformers, bool]] = (
    ("device", "device", False),
    ("host", "device", False),
    ("host", "swapped", False),
    ("device", "device", True),
    ("host", "device", True),
    ("host", "swapped", True),
    ("host", "streamed", False),
    ("host", "streamed", True),
    ("host", "blocks", False),
    ("host", "blocks", True),
)


def placements(weights: Weights, work: Work) -> Iterator[Placement]:
    """The best first."""
    text = weights.parts.get("text_encoder", 0)
    transformers = sum(weights.parts.get(name, 0) for name in TRANSFORMERS)
    rest = weights.total - text
    for encoder, where, tiled in CHOICES:
        running = work.peak(tiled)
        if encoder == "device":
            device, host = weights.total + max(running, ENCODE), 0
        elif where == "device":
            device, host = max(rest + running, weights.total + ENCODE), text
        elif where == "swapped":
            alone = weights.total - transformers + ENCODE
            device, host = max(rest + running, alone), max(text, transformers)
        else:
            streamed, trunk = where == "streamed", rest - weights.blocks
            blocks = weights.block * (2 if streamed else 1)
            device = max(trunk + blocks + running, trunk + text + ENCODE)
            host = text + weights.blocks * (PINNED if streamed else 1)
        yield Placement(encoder, where, tiled, device + RESERVE, host)


def plan_placement(
    name: str, weights: Weights, work: Work, free_gpu: int, free_ram: int, streams: bool = True
) -> Placement:
    """The best placement that fits `free_gpu` and `free_ram` bytes; everything passes through RAM on its way.
    Without `streams` no block is moved in ahead.

    Raises SencacheError with the numbers where none fits.
    """
    if weights.total > free_ram:
        raise SencacheError(
            f"{name} has {gigabytes(weights.total)} of weights to load and {gigabytes(free_ram)} of RAM are "
            "free; close other programs or use a machine with more"
        )
    offered = [one for one in placements(weights, work) if streams or one.transformers != "streamed"]
    for placement in offered:
        if placement.device_bytes <= free_gpu and placement.host_bytes <= free_ram:
            return placement
    least = min(placement.device_bytes for placement in offered)
    raise SencacheError(
        f"{name} needs at least {gigabytes(least)} of GPU memory (computed, not measured) and "
        f"{gigabytes(free_gpu)} are free; use a larger GPU, close what else runs on it, ask for a smaller "
        "video or choose a smaller model"
    )


def check_ram(name: str, weights: Weights, work: Work, free_ram: int) -> None:
    """Raise SencacheError where a run without a GPU would not fit the memory."""
    needed = weights.total + work.peak()
    if needed > free_ram:
        raise SencacheError(
            f"{name} needs {gigabytes(needed)} of RAM without a GPU (computed, not measured) and "
            f"{gigabytes(free_ram)} are free; use --device cuda, or a smaller model such as tiny-wan"
        )


def gigabytes(count: int) -> str:
    """In units of 10^9 bytes."""
    return f"{count / 1e9:.1f} GB"
