"""What a visitor sets: the fields, and the request that their values make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from sencache.app.opening import USUAL_SPEED, evaluations
from sencache.app.pages.knobs import Knob, build_knobs, given
from sencache.app.pages.note import note
from sencache.app.pages.own_profiles import Own, PullBox, own_profiles, pull_box
from sencache.app.palette import lane_label
from sencache.app.request import ComparisonRequest, make_request
from sencache.schema import MAX_PROMPT, MAX_STEPS

SPEEDS = ("1.5", "2", "2.5", "3", "4")
MATCHED, OWN = "matched", "own"
BUDGETS = (
    ("the same evaluations for all", MATCHED),
    ("preset slow", "slow"),
    ("preset fast", "fast"),
    ("own settings", OWN),
)
EXAMPLE_LENGTH = 60
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Controls:
    """All fields, by the names that links and messages use; knobs and the visitor's own profiles apart."""

    fields: dict[str, Component]
    knobs: list[Knob]
    run: gr.Button
    cancel: gr.Button
    estimate: gr.HTML
    own: gr.State
    pull: PullBox
    offer: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """How the fields are called in links and messages, in the order of `inputs`."""
        return [*self.fields, *(knob.name for knob in self.knobs)]

    @property
    def inputs(self) -> list[Component]:
        """Everything that a link restores, in the order of `names`."""
        return [*self.fields.values(), *(knob.field for knob in self.knobs)]

    @property
    def asked(self) -> list[Component]:
        """Everything that `request` takes, in its order."""
        return [*self.inputs, self.own]

    def request(self, *values: Any) -> ComparisonRequest:
        """What these values of `asked` ask for, of `inputs` where no profile is the visitor's own.

        Raises SencacheError where one cannot be used.
        """
        own: Own = values[-1] if len(values) > len(self.names) else {}
        named = dict(zip(self.fields, values, strict=False))
        budget = named["budget"]
        return make_request(
            model=named["model"],
            prompt=named["prompt"] or "",
            negative_prompt=named["negative"] or "",
            methods=tuple(named["methods"] or ()),
            settings=given(self.knobs, list(values[len(self.fields) : len(self.names)])),
            nfe=evaluations(named["speed"], self.steps(*values)) if budget == MATCHED else None,
            preset=budget if budget not in (MATCHED, OWN) else None,
            **_profile(named["profile"], own),
            seed=named["seed"] or 0,
            steps=named["steps"],
            guidance_scale=named["guidance"],
            height=named["height"],
            width=named["width"],
            frames=named["frames"],
        )

    def steps(self, *values: Any) -> int:
        """The steps of the full run that these values ask for."""
        named = dict(zip(self.fields, values, strict=False))
        own = next(m["steps"] for m in self.offer["models"] if m["key"] == named["model"])
        return int(named["steps"] or own)


def _profile(name: str | None, own: Own) -> dict[str, Any]:
    """How a request names the profile that is listed as `name`."""
    if name not in own:
        return {"profile": name or None}
    profile, _ = own[name]
    origin = {"file": profile.origin, "repo": profile.repo, "revision": profile.revision}
    return {"profile_json": profile.to_json(), "profile_origin": origin}


def speed_label(speed: str, steps: int, budget: str) -> str:
    """What the main knob says of itself."""
    if budget != MATCHED:
        return "Speed-up: as the methods' settings give"
    return f"Speed-up: {speed}× — {evaluations(speed, steps)} of {steps} evaluations"


def build_controls(offer: dict[str, Any], own: gr.State | None = None) -> Controls:
    """The fields in the order in which they are read; `offer` as the service describes it, `own` the
    visitor's profiles.
    """
    model = offer["models"][0]
    fields: dict[str, Component] = {}
    fields["prompt"] = gr.Textbox(
        model["examples"][0],
        label="Prompt",
        lines=2,
        max_lines=4,
        max_length=MAX_PROMPT,
        elem_id="prompt",
    )
    # Longer ones would be cut off.
    short = [prompt for prompt in model["examples"] if len(prompt) <= EXAMPLE_LENGTH]
    gr.Examples(short[1:], fields["prompt"], label="Try", elem_id="examples")
    fields["speed"] = gr.Radio(
        [(f"{speed}×", speed) for speed in SPEEDS],
        value=USUAL_SPEED,
        label=speed_label(USUAL_SPEED, model["steps"], MATCHED),
        elem_id="speed",
    )
    with gr.Row(elem_id="run-row"):
        run = gr.Button("Run comparison", variant="primary", elem_id="run", scale=3)
        cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", scale=1, min_width=90)
    estimate = note("estimate")
    fields["methods"] = _methods(offer, model)
    more, pull = _more(offer, model)
    fields |= more
    with gr.Accordion("Every method’s own settings", open=False, elem_id="knobs"):
        knobs = build_knobs(offer["methods"])
    return Controls(fields, knobs, run, cancel, estimate, own or own_profiles(), pull, offer)


def _methods(offer: dict[str, Any], model: dict[str, Any]) -> gr.CheckboxGroup:
    """Label and one-line description in one label, the first line set in bold by the stylesheet."""
    caching = [method for method in offer["methods"] if not method["baseline"]]
    return gr.CheckboxGroup(
        [(f"{method['label']}\n{method['summary']}", method["lane"]) for method in caching],
        value=model["preselected"],
        label="Methods, beside the full run and fewer steps",
        info=_left_out(model),
        elem_id="methods",
    )


def _left_out(model: dict[str, Any]) -> str | None:
    """Whose constants were pulled, and why some methods are not chosen for the visitor; None where there is
    nothing to say.
    """
    said, steps = [f"{text}." for text in model["pulled"]], model["steps"]
    if model["unserved"]:
        names = "; ".join(map(lane_label, model["unserved"]))
        calibrate = f"python -m sencache calibrate --model {model['key']}"
        said.append(f"Unavailable on {model['key']}: {names}. Each needs a calibrated profile: {calibrate}")
    for lane, forced in model["idle"].items():
        budget = f"the budget of {evaluations(USUAL_SPEED, steps)}"
        computes = f"computes {forced} of {steps} steps in any case, more than {budget}"
        said.append(f"Not chosen: {lane_label(lane)}, which {computes}.")
    if model["spared"]:
        names = "; ".join(map(lane_label, model["spared"]))
        said.append(f"Not chosen, so that a first run is not too long: {names}.")
    return " ".join(said) or None


def _more(offer: dict[str, Any], model: dict[str, Any]) -> tuple[dict[str, Component], PullBox]:
    fields: dict[str, Component] = {}
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        models = [(m["key"], m["key"]) for m in offer["models"]]
        fields["model"] = gr.Dropdown(models, value=model["key"], label="Model", elem_id="model")
        with gr.Row():
            fields["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
            fields["steps"] = gr.Number(model["steps"], label="Steps", precision=0, elem_id="steps")
        fields["budget"] = gr.Dropdown(list(BUDGETS), value=MATCHED, label="Budget", elem_id="budget")
        fields["negative"] = gr.Textbox("", label="Negative prompt", max_length=MAX_PROMPT)
        with gr.Row():
            for name in ("guidance", "width", "height", "frames"):
                value = model["guidance_scale" if name == "guidance" else name]
                fields[name] = gr.Number(value, label=name.capitalize(), min_width=110, elem_id=name)
        fields["profile"] = gr.Dropdown(
            profile_choices(offer, {}), value="", label="Profile", elem_id="profile"
        )
        pull = pull_box()
    return fields, pull


def profile_choices(offer: dict[str, Any], own: Own) -> list[str | tuple[str, str]]:
    """What the list of profiles offers: the model's own, those that come with the app, the visitor's."""
    architectures = {model["architecture"] for model in offer["models"]}
    mine = [name for name, (profile, _) in own.items() if profile.model.architecture in architectures]
    return [("the model’s own", ""), *fitting(offer), *mine]


def fitting(offer: dict[str, Any]) -> list[str]:
    """Names of the profiles made for an architecture that is offered."""
    architectures = {model["architecture"] for model in offer["models"]}
    return [profile["name"] for profile in offer["profiles"] if profile["architecture"] in architectures]


def bounds(name: str) -> tuple[int, int]:
    """The smallest and largest value that a link may set; anything else is checked when it is run."""
    return {"seed": (0, MAX_SEED), "steps": (1, MAX_STEPS)}.get(name, (0, 10_000))
