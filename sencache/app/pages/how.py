"""How it works: the score taught on one recorded full run, which is small enough to be replayed under any
SenCache setting in a browser, and what every method looks at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import gradio as gr
from pydantic import Field, ValidationError, model_validator

from sencache.app.pages.gallery import GALLERY
from sencache.app.pages.parts import script, template
from sencache.errors import SencacheError
from sencache.schema import Strict, first_problem

REPLAY = "replay.json"

Row = tuple[float, ...]


class Replay(Strict):
    """What SenCache's rule needs of a run of N steps, and what its decisions would have cost.

    `alpha_x`, `alpha_t`: [N], the profile's sensitivities at each timestep. `latent_rms`: [N, N], RMS
    distance between the latents of any two steps. `output_change`: [N, N], the relative error of using the
    network's output at step j in place of that at step i: mean absolute difference over mean absolute output
    at i. `tolerance` and `max_reuses` are those of the comparison beside which the replay lies.
    """

    schema_: Literal["sencache.replay/1"] = Field(default="sencache.replay/1", alias="schema")
    prompt: str
    seed: int
    profile: str
    timesteps: Row
    alpha_x: Row
    alpha_t: Row
    latent_rms: tuple[Row, ...]
    output_change: tuple[Row, ...]
    early_fraction: float
    early_tolerance: float
    tolerance: float
    max_reuses: int

    @model_validator(mode="after")
    def _lengths(self) -> Replay:
        steps = len(self.timesteps)
        rows = (self.alpha_x, self.alpha_t, *self.latent_rms, *self.output_change)
        if {*map(len, rows), len(self.latent_rms), len(self.output_change)} != {steps}:
            raise ValueError(f"every table must have {steps} entries a side, one per timestep")
        return self


def load_replay(path: Path) -> Replay:
    """Read a replay; raises SencacheError when it is missing or not of this schema."""
    try:
        return Replay.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SencacheError(
            f"cannot read {path} ({error.strerror}); make it with python -m examples.make_gallery"
        ) from None
    except ValidationError as error:
        where, value, problem = first_problem(error)
        raise SencacheError(
            f"{path}: {where} is {value!r} ({problem}); make it anew with python -m examples.make_gallery"
        ) from None


def build_how_page() -> None:
    found = sorted(GALLERY.glob(f"*/{REPLAY}"))
    replay = load_replay(found[0] if found else GALLERY / REPLAY)
    # Everything moves in the browser.
    gr.HTML(
        replay.model_dump(mode="json", by_alias=True),
        html_template=template("how"),
        js_on_load=script("rule", "how"),
        elem_id="how",
    )
