"""What is said of one video transformer: the facts in which it differs from the others. All else is derived.

Plain data and small functions; no framework is loaded here, and nothing above this room is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sencache.errors import SencacheError

if TYPE_CHECKING:
    import torch

Config = Mapping[str, Any]
# What the blocks of every architecture take first, by these names or in this order.
HIDDEN, TEXT, TEMB = INPUTS = ("hidden_states", "encoder_hidden_states", "temb")
# In place of the block lists of a transformer that nobody described.
UNKNOWN = "?"
# What `encode_prompt` returns where it makes masks of the prompts as well.
MASKS = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


@dataclass(slots=True)
class BlockCall:
    """The arguments of one block, by position and by name as the model gave them, which is the only way that
    blocks compiled ahead of time know.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        """One of `INPUTS`."""
        return self.kwargs[name] if name in self.kwargs else self.args[INPUTS.index(name)]

    @property
    def hidden(self) -> torch.Tensor:
        """[B, tokens, width]."""
        hidden: torch.Tensor = self[HIDDEN]
        return hidden

    def with_states(self, hidden: torch.Tensor, text: torch.Tensor | None = None, **named: Any) -> BlockCall:
        """The same call with other hidden states and, where given, other text states and arguments."""
        changed = {HIDDEN: hidden} if text is None else {HIDDEN: hidden, TEXT: text}
        args, kwargs = list(self.args), {**self.kwargs, **named}
        for name, value in changed.items():
            if name in kwargs:
                kwargs[name] = value
            else:
                args[INPUTS.index(name)] = value
        return BlockCall(tuple(args), kwargs)

    def return_value(self, text_stream: bool) -> Any:
        """What a block returns that leaves its input as it is."""
        return (self.hidden, self[TEXT]) if text_stream else self.hidden


@dataclass(frozen=True)
class BlockSignal:
    """A signal that `read` computes from the first block and its arguments; `weights`: with the block's own
    weights, outside its forward.
    """

    read: Callable[[torch.nn.Module, BlockCall], torch.Tensor]
    weights: bool = False


@dataclass(frozen=True)
class ChildSignal:
    """A signal that is the first output of a child module which runs before the blocks."""

    child: str


def read_temb(block: torch.nn.Module, call: BlockCall) -> Any:
    """The timestep embedding as the first block gets it."""
    return call[TEMB]


def per_channel(latent: Any, *constants: Any) -> tuple[Any, ...]:
    """Each list of constants, one for a channel, to reckon with a latent [B, C, T, H, W]."""
    return tuple(latent.new_tensor(values).view(1, -1, 1, 1, 1) for values in constants)


@dataclass(frozen=True)
class Decoder:
    """What a VAE holds at full size: `frames` at once (None: all), in as many `tensors`, and `tile` pixels
    of them when it works in tiles.
    """

    frames: int | None
    tensors: int
    tile: int

    def bytes(self, pixels: int, frames: int, size: int) -> int:
        """For `frames` of `pixels` each, `size` to a pixel of a tensor."""
        return pixels * min(frames, self.frames or frames) * self.tensors * size


def encode_both(pipe: Any, prompt: str, negative_prompt: str, guidance_scale: float, **options: Any) -> Any:
    """What `encode_prompt` gives of a prompt and, under guidance, a negative one. `options`: device and
    max_sequence_length.
    """
    guided = guidance_scale > 1
    return pipe.encode_prompt(prompt, negative_prompt, do_classifier_free_guidance=guided, **options)


def named_class(index: Config, from_image: bool) -> str:
    """The pipeline that a checkpoint's model_index.json names."""
    return str(index.get("_class_name"))


@dataclass(frozen=True)
class Architecture:
    """One family of video transformers; raises SencacheError where a fact is missing or malformed. The
    network alone is enough to attach to a pipeline; loading, comparing and calibrating by name take the rest.

    The network. `transformers`: its classes. `blocks`: attributes of its block lists, which run one after the
    other and are skipped together. `text_stream`: blocks take and return the text's states beside the
    video's, and attend to both at once. `channel_axis`: axis of `hidden_states` with the latent's channels,
    None where all are; image-to-video models append theirs after them. `doubles_batch`: guidance doubles the
    batch of a call, where others make a second one. `embedded_guidance`: the pipeline's guidance_scale goes
    into the network and needs no second prompt. `signals`: what TeaCache may look at, the default first.

    The pipelines. `pipelines`: classes of diffusers, and whether each starts from a still; `choose` tells
    which one runs a checkpoint, from its `model_index.json` and whether a still is used. `samplers`: those
    offered, by the words that choose them. `encoded`: the names under which the pipeline's call takes back
    what `encode` returns, in order. `text_encoders`: its parts, the largest first, which may wait in RAM.

    The checkpoints. `defaults`: facts of a ModelSpec that hold where a configuration does not say otherwise;
    `describe(transformer, vae)`: those that it says. `clean(pipe, encoded)`: a clip's latent, as the VAE
    encodes it, in the pipeline's layout and scale. `decoder`: memory of the VAE; without it only the weights
    are planned for.
    """

    name: str
    transformers: tuple[str, ...]
    blocks: tuple[str, ...]
    channel_axis: int | None
    pipelines: Mapping[str, bool] = field(default_factory=dict)
    samplers: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    describe: Callable[[Config, Config], dict[str, Any]] | None = None
    clean: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    encoded: tuple[str, ...] = ("prompt_embeds", "negative_prompt_embeds")
    encode: Callable[..., tuple[Any, ...]] = encode_both
    text_encoders: tuple[str, ...] = ("text_encoder",)
    text_stream: bool = False
    doubles_batch: bool = False
    embedded_guidance: bool = False
    signals: Mapping[str, BlockSignal | ChildSignal] = field(default_factory=dict)
    choose: Callable[[Config, bool], str] = named_class
    decoder: Decoder | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SencacheError(
                f"{self.name!r} cannot name an architecture; use small letters, digits and any of _.-"
            )
        required = ["transformers", "blocks", "encoded", "text_encoders"]
        required += ["samplers", "defaults", "describe"] if self.pipelines else []
        for fact in required:
            given = getattr(self, fact)
            if isinstance(given, str) or not given:
                raise SencacheError(
                    f"the architecture {self.name} has {given!r} as {fact}; give at least one, "
                    "not as a bare text"
                )
        for name, signal in self.signals.items():
            if not isinstance(signal, (BlockSignal, ChildSignal)):
                raise SencacheError(
                    f"the signal {name!r} of {self.name} is a {type(signal).__name__}; "
                    "give a BlockSignal or a ChildSignal"
                )

    @property
    def default_signal(self) -> str | None:
        """The signal a calibration fits TeaCache's polynomial on."""
        return next(iter(self.signals), None)

    def guided(self, guidance_scale: float) -> bool:
        """Whether a step at this scale evaluates the network for a second prompt."""
        return guidance_scale > 1 and not self.embedded_guidance

    def latent(self, hidden_states: torch.Tensor, channels: Any) -> torch.Tensor:
        """The denoised latent inside the transformer's input: its first `channels` channels, batch first."""
        if self.channel_axis is None:
            return hidden_states
        return hidden_states.narrow(self.channel_axis, 0, channels)
