"""What is known of a model before it is loaded, as plain facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sencache.architectures import find_architecture

ASSETS = Path(__file__).parents[1] / "assets"
# For models that come without prompts of their own.
PROMPTS = (
    "A red fox trots through fresh snow at the edge of a pine forest, its breath visible in the cold air.",
    "Waves roll onto a black pebble beach at dusk while the camera glides slowly along the shore.",
    "A potter shapes a tall clay vase on a spinning wheel, close-up of wet hands, warm workshop light.",
    "A yellow tram climbs a steep narrow street between tiled houses on a bright morning.",
    "Steam rises from a bowl of noodles as chopsticks lift a tangle of them, shallow depth of field.",
    "An astronaut walks across a dusty red plain toward a distant dome, long shadows, slow pan.",
    "A child blows soap bubbles in a park, the bubbles drift past the camera and burst in the sun.",
    "Aerial view of a winding river through autumn woods, mist lifting as the camera moves forward.",
)


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the list: where the weights are, what they were made for, and which requests they take.

    `source` is a folder of this package or of the user, or the name of a Hub repository. Sizes must be
    multiples of `size_multiple` pixels (with `fixed_size` the model's own), frames `temporal_factor * k + 1`.
    `shift` is that of the authors' own scripts and is set at loading; None leaves the checkpoint's. `dtype`
    is the precision on a GPU, `dtypes` those of parts that need another one. `parameters` are counts by part,
    `inner` and `feed_forward` the transformer's widths, `vae_values` the VAE's at full size, per pixel and
    frame, `temporal_compression` frames in a latent frame: what memory is computed from. What time is
    computed from on top: `layers`, and `vae_flops` of decoding per pixel and frame. `token_side` are a
    token's pixels where they are not `size_multiple`, `token_values` its channels times its patch. `call` are
    further arguments of the pipeline.
    """

    key: str
    summary: str
    source: Path | str
    pipeline: str
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
    calibration_prompts: tuple[str, ...] = PROMPTS
    profile: str | None = None
    scheduler: str | None = None
    shift: float | None = None
    guidance_scale_2: float | None = None
    fixed_size: bool = False
    dtype: str = "bfloat16"
    dtypes: Mapping[str, str] = field(default_factory=dict, hash=False)
    parameters: Mapping[str, int] = field(default_factory=dict, hash=False)
    inner: int = 0
    feed_forward: int = 0
    layers: int = 0
    token_side: int = 0
    token_values: int = 0
    vae_values: int = 0
    vae_flops: int = 0
    temporal_compression: int = 4
    temporal_patch: int = 1
    call: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        """The name of its repository, or of its folder."""
        return self.source if isinstance(self.source, str) else self.source.name

    @property
    def bundled(self) -> bool:
        """Whether the weights come with this package."""
        return isinstance(self.source, Path) and self.source.is_relative_to(ASSETS)

    @property
    def from_image(self) -> bool:
        """Whether the model needs a still to start from."""
        return find_architecture(self.architecture).pipelines[self.pipeline]
