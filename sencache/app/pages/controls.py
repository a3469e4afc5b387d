"""What a visitor sets: the fields, every method's own settings, the request that their values make, and the
link that restores them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr
from gradio import update
from gradio.components import Component

from sencache.app.pages.own_profiles import Own, own_profiles, pull_box
from sencache.app.pages.parts import note
from sencache.app.palette import lane_label
from sencache.app.request import ComparisonRequest, make_request
from sencache.app.space import USUAL_SPEED, evaluations
from sencache.comparison.report import Report
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
BOOLEANS = {"yes": True, "no": False}
TEXTS = ("prompt", "negative")
MAX_VALUE = 4000
# The smallest and largest value that a link may set; anything else is checked when it is run.
BOUNDS = {"seed": (0, MAX_SEED), "steps": (1, MAX_STEPS)}


@dataclass(frozen=True)
class Knob:
    """One setting of one method, as the service describes it, and the field in which it can be given."""

    method: str
    setting: dict[str, Any]
    field: Component

    @property
    def name(self) -> str:
        return f"{self.method}.{self.setting['name']}"

    def read(self, value: Any) -> Any:
        if self.setting["kind"] == "boolean":
            return BOOLEANS.get(value, value)
        if self.setting["kind"] == "list":
            return tuple(str(value).replace(",", " ").split())
        return value


@dataclass(frozen=True)
class Controls:
    """All fields, by the names that links and messages use; knobs and the visitor's own profiles apart."""

    fields: dict[str, Component]
    knobs: list[Knob]
    run: gr.Button
    cancel: gr.Button
    estimate: gr.HTML
    own: gr.State
    pull: tuple[gr.Textbox, gr.Button, gr.HTML]
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

    def by_name(self, values: Iterable[Any]) -> dict[str, Any]:
        """The values of `inputs`, of more without the rest."""
        return dict(zip(self.names, values, strict=False))

    def request(self, *values: Any) -> ComparisonRequest:
        """What these values of `asked` ask for, of `inputs` where no profile is the visitor's own.

        Raises SencacheError where one cannot be used.
        """
        own: Own = values[-1] if len(values) > len(self.names) else {}
        given = self.by_name(values)
        settings: dict[str, dict[str, Any]] = {}
        for knob in self.knobs:
            # An empty field leaves its setting alone.
            if (value := given[knob.name]) not in (None, ""):
                settings.setdefault(knob.method, {})[knob.setting["name"]] = knob.read(value)
        budget = given["budget"]
        return make_request(
            model=given["model"],
            prompt=given["prompt"] or "",
            negative_prompt=given["negative"] or "",
            methods=tuple(given["methods"] or ()),
            settings=settings,
            nfe=evaluations(given["speed"], self.steps(values)) if budget == MATCHED else None,
            preset=budget if budget not in (MATCHED, OWN) else None,
            **_profile(given["profile"], own),
            seed=given["seed"] or 0,
            steps=given["steps"],
            guidance_scale=given["guidance"],
            height=given["height"],
            width=given["width"],
            frames=given["frames"],
        )

    def steps(self, values: Iterable[Any]) -> int:
        given = self.by_name(values)
        own = next(m["steps"] for m in self.offer["models"] if m["key"] == given["model"])
        return int(given["steps"] or own)


def _profile(name: str | None, own: Own) -> dict[str, Any]:
    if name not in own:
        return {"profile": name or None}
    profile, _ = own[name]
    origin = {"file": profile.origin, "repo": profile.repo, "revision": profile.revision}
    return {"profile_json": profile.to_json(), "profile_origin": origin}


def speed_label(speed: str, steps: int, budget: str) -> str:
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
        model["examples"][0], label="Prompt", lines=2, max_lines=4, max_length=MAX_PROMPT, elem_id="prompt"
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
    fields["methods"] = gr.CheckboxGroup(
        # Label and one-line description in one label, the first line set in bold by the stylesheet.
        [(f"{m['label']}\n{m['summary']}", m["lane"]) for m in offer["methods"] if not m["baseline"]],
        value=model["preselected"],
        label="Methods, beside the full run and fewer steps",
        info=_left_out(model),
        elem_id="methods",
    )
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        fields |= _advanced(offer, model)
        pull = pull_box()
    with gr.Accordion("Every method’s own settings", open=False, elem_id="knobs"):
        knobs = _build_knobs(offer["methods"])
    return Controls(fields, knobs, run, cancel, estimate, own or own_profiles(), pull, offer)


def _left_out(model: dict[str, Any]) -> str | None:
    """Whose constants were pulled, and why some methods are not chosen for the visitor; None where there is
    nothing to say.
    """
    sentences, steps = [f"{text}." for text in model["pulled"]], model["steps"]
    if model["unserved"]:
        names = "; ".join(map(lane_label, model["unserved"]))
        calibrate = f"python -m sencache calibrate --model {model['key']}"
        sentences.append(
            f"Unavailable on {model['key']}: {names}. Each needs a calibrated profile: {calibrate}"
        )
    for lane, forced in model["idle"].items():
        budget = f"the budget of {evaluations(USUAL_SPEED, steps)}"
        computes = f"computes {forced} of {steps} steps in any case, more than {budget}"
        sentences.append(f"Not chosen: {lane_label(lane)}, which {computes}.")
    if model["spared"]:
        names = "; ".join(map(lane_label, model["spared"]))
        sentences.append(f"Not chosen, so that a first run is not too long: {names}.")
    return " ".join(sentences) or None


def _advanced(offer: dict[str, Any], model: dict[str, Any]) -> dict[str, Component]:
    fields: dict[str, Component] = {}
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
    fields["profile"] = gr.Dropdown(profile_choices(offer, {}), value="", label="Profile", elem_id="profile")
    return fields


def profile_choices(offer: dict[str, Any], own: Own) -> list[str | tuple[str, str]]:
    """What the list of profiles offers: the model's own, those that come with the app, the visitor's."""
    architectures = {model["architecture"] for model in offer["models"]}
    mine = [name for name, (profile, _) in own.items() if profile.model.architecture in architectures]
    return [("the model’s own", ""), *bundled_choices(offer), *mine]


def bundled_choices(offer: dict[str, Any]) -> list[str]:
    architectures = {model["architecture"] for model in offer["models"]}
    return [profile["name"] for profile in offer["profiles"] if profile["architecture"] in architectures]


def _build_knobs(methods: list[dict[str, Any]]) -> list[Knob]:
    knobs: list[Knob] = []
    for method in methods:
        if method["settings"] and ":" not in method["lane"]:
            name = method["method"]
            with gr.Accordion(lane_label(name), open=False, elem_classes="knobs"), gr.Row():
                knobs += [Knob(name, setting, _knob_field(name, setting)) for setting in method["settings"]]
    return knobs


def _knob_field(method: str, setting: dict[str, Any]) -> Component:
    """Empty where the default holds."""
    label, default = setting["name"].replace("_", " "), setting["default"]
    elem_id = f"knob-{method}-{setting['name']}".replace("_", "-")
    options: dict[str, Any] = {"label": label, "elem_id": elem_id, "min_width": 130}
    if setting["kind"] in ("choice", "boolean"):
        names = setting["choices"] or list(BOOLEANS)
        usual = next((n for n in BOOLEANS if BOOLEANS[n] is default), default)
        return gr.Dropdown([(f"default ({usual})", ""), *names], value="", **options)
    if setting["kind"] == "list":
        return gr.Textbox(placeholder="0, 1, 4, 8 …", max_length=4000, **options)
    hint = "from the profile" if default is None else str(default)
    precision = 0 if setting["kind"] == "integer" else None
    return gr.Number(None, placeholder=hint, precision=precision, minimum=setting.get("minimum"), **options)


# ---- settings as a link, and back


def query_of(controls: Controls, *values: Any) -> str:
    """The query of the link that restores these values of `controls.inputs`."""
    return _query(dict(zip(controls.names, values, strict=True)))


def query_of_report(report: Report) -> str:
    """The query that asks for a finished comparison again, as near as the page's fields can say it."""
    request = report.request
    return _query(
        {
            "prompt": request.prompt,
            "speed": next((s for s in SPEEDS if evaluations(s, request.steps) == request.nfe), None),
            "budget": MATCHED if request.nfe else request.preset or OWN,
            "methods": [lane.name for lane in report.lanes if lane.target is not None],
            "model": report.model.key,
            "negative": request.negative_prompt,
            "guidance": request.guidance_scale,
            **{name: getattr(request, name) for name in ("seed", "steps", "width", "height", "frames")},
        }
    )


def _query(values: Mapping[str, Any]) -> str:
    """Fields left empty are left out; but no method at all is a choice."""
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for name, value in values.items()
    }
    return urlencode({n: text for n, text in texts.items() if text not in (None, "") or n == "methods"})


def read_query(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))


def restore(controls: Controls, query: Mapping[str, str]) -> list[Any]:
    """An update per input, whatever is in it now: the query's value, else that of an untouched page.

    What a link says is a stranger's: a value that its field does not offer is left out. So is all but the
    texts where the query is for a model that is not offered here, as sizes and methods are that model's.
    """
    known = [model["key"] for model in controls.offer["models"]]
    if query.get("model", known[0]) not in known:
        query = {name: text for name, text in query.items() if name in TEXTS}
    found = {name: _field(controls, name, text) for name, text in query.items() if name in controls.fields}
    for knob in controls.knobs:
        if knob.name in query:
            found[knob.name] = _knob(knob.setting, query[knob.name])
    untouched = zip(controls.names, (field.value for field in controls.inputs), strict=True)
    return [update(value=own if found.get(name) is None else found[name]) for name, own in untouched]


def _field(controls: Controls, name: str, text: str) -> Any:
    if name in TEXTS:
        return text[:MAX_PROMPT]
    if name == "methods":
        offered = [method["lane"] for method in controls.offer["methods"] if not method["baseline"]]
        return [lane for lane in text.split(",") if lane in offered]
    choices = {
        "speed": SPEEDS,
        "budget": [value for _, value in BUDGETS],
        "model": [model["key"] for model in controls.offer["models"]],
        "profile": bundled_choices(controls.offer),
    }
    if name in choices:
        return text if text in choices[name] else None
    return _number(text, *BOUNDS.get(name, (0, 10_000)))


def _knob(setting: dict[str, Any], text: str) -> Any:
    if setting["kind"] == "list":
        return text[:MAX_VALUE]
    if setting["kind"] in ("boolean", "choice"):
        return text if text in (setting["choices"] or BOOLEANS) else None
    return _number(text, 0, 1000)


def _number(text: str, low: float, high: float) -> float | int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not (math.isfinite(value) and low <= value <= high):
        return None
    return int(value) if value.is_integer() else value
