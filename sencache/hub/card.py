"""The page of a dataset repository that holds profiles: what each is, how it was made, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from sencache.architectures import ARCHITECTURES
from sencache.profiles.constants import Calibration
from sencache.profiles.facts import facts, served
from sencache.profiles.profile import Profile
from sencache.schema import SHIFTS

MARK = "<!-- Written by `sencache profiles push`, which replaces it at the next push. -->"
PROJECT = "SenCache Space"

# Identifiers of licences that the Hub knows and profiles use; others are given by name.
HUB_LICENCES = {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "openrail"}
# As `--dtype` takes them.
PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
LIMITS = (
    "A profile belongs to its checkpoint, and was made on one schedule, size and guidance scale. On other "
    "steps, sizes or shifts its tables are resampled, and the program says so; how well they then serve is "
    "not measured. The presets' savings were met on average over the calibration's own videos; single videos "
    "differ."
)


def dataset_card(repo: str, profiles: Mapping[str, Profile]) -> str:
    """README.md of the dataset `repo` that holds `profiles` by file name, with its YAML front matter."""
    models = sorted({" ".join(profile.model.id.split()) for profile in profiles.values()})
    title = f"Step-caching profiles for {', '.join(models)}"
    parts = (
        front_matter(title, _licence({profile.provenance.licence.lower() for profile in profiles.values()})),
        f"{MARK}\n\n# {_plain(title)}\n\nCalibrated constants with which step caches decide when a video "
        f"diffusion transformer may reuse an earlier evaluation. Made and read by {PROJECT}.",
        *(_section(repo, file, profiles[file]) for file in sorted(profiles)),
        f"## Limits\n\n{LIMITS}\n",
    )
    return "\n\n".join(parts)


def _licence(licences: set[str]) -> dict[str, Any]:
    """As the Hub takes it: its own identifiers, and all others as one name."""
    known, others = sorted(licences & HUB_LICENCES), sorted(licences - HUB_LICENCES)
    if not others:
        return {"license": known[0] if len(known) == 1 else known}
    return {"license": [*known, "other"] if known else "other", "license_name": "-".join(others)[:100]}


def front_matter(title: str, fields: Mapping[str, Any]) -> str:
    """The YAML at the head of a dataset's page."""
    tags = ["sencache", "step-caching", "video-generation", "diffusers"]
    fields = {**fields, "pretty_name": title[:200], "tags": tags, "viewer": False}
    # JSON is YAML, and needs no second set of rules for quoting.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(("---", *lines, "---"))


def _section(repo: str, file: str, profile: Profile) -> str:
    stem = PurePosixPath(file).stem
    made = profile.calibration
    rows = [("Serves", ", ".join(served(profile)) or "nothing"), *facts(profile)]
    rows += [("Prompts", "; ".join(made.prompts)[:1000])] if made else []
    parts = (
        f"## {stem}\n\n![What was measured, over the timesteps]({stem}.svg)",
        table(("what", "value"), rows),
        _presets(profile),
        _usage(repo, file, profile),
        _reproduce(file, profile, made) if made else "",
    )
    return "\n\n".join(part for part in parts if part)


def _presets(profile: Profile) -> str:
    rows = []
    for preset, methods in profile.presets.items():
        for method, given in methods.items():
            settings = ", ".join(f"{key}={value}" for key, value in given.items())
            nfe = profile.preset_nfe.get(preset, {}).get(method)
            spread = f"{nfe.mean:.1f} ({nfe.min} to {nfe.max})" if nfe else "not recorded"
            rows.append((preset, method, settings or "as by default", spread))
    head = ("preset", "method", "settings", f"evaluations of {profile.schedule.steps}, mean (least to most)")
    return table(head, rows) if rows else ""


def _usage(repo: str, file: str, profile: Profile) -> str:
    text = (
        "Use it; `COMMIT` is the full hash of a commit here, so that the file cannot change:\n\n"
        f"```sh\npython -m sencache profiles pull {file} --repo {repo} --revision COMMIT --out {file}\n```"
    )
    for method in served(profile)[:1]:
        slow = method.lower() in profile.presets.get("slow", {})
        preset = f', **profile.presets["slow"]["{method.lower()}"]' if slow else ""
        text += (
            f'\n\n```python\nprofile = sencache.load_profile("{file}")\n'
            f"with sencache.attach(pipe, sencache.{method}(profile{preset})) as trace:\n"
            "    video = pipe(prompt).frames[0]\n```"
        )
    return text


def _reproduce(file: str, profile: Profile, made: Calibration) -> str:
    words = " ".join(_calibration_options(profile, made))
    return (
        f"Measure it again; `MODEL` is the key of {_plain(profile.model.id)} in `sencache models`, and "
        "`prompts.txt` holds the prompts above, one a line. A still or a second guidance scale, where the "
        "model takes one, is not on record:\n\n"
        f"```sh\npython -m sencache calibrate --model MODEL --prompts prompts.txt {words} --out {file}\n```"
    )


def _calibration_options(profile: Profile, made: Calibration) -> Iterator[str]:
    schedule, shape = profile.schedule, profile.shape
    yield f"--samples {len(made.seeds)} --seed {min(made.seeds, default=0)} --steps {schedule.steps}"
    known = ARCHITECTURES.get(profile.model.architecture)
    names = {cls: name for name, cls in known.samplers.items()} if known else {}
    if schedule.scheduler in names:
        yield f"--scheduler {names[schedule.scheduler]}"
    shift = schedule.config.get(SHIFTS.get(schedule.scheduler, ""))
    # A configuration as JSON may hold a whole number; True is one to Python.
    number = isinstance(shift, (int, float)) and shift is not True
    if number and not schedule.config.get("use_dynamic_shifting"):
        yield f"--shift {shift:g}"
    if profile.dtype in PRECISIONS:
        yield f"--dtype {PRECISIONS[profile.dtype]}"
    if profile.guidance_scale is not None:
        yield f"--guidance {profile.guidance_scale:g}"
    if shape:
        yield f"--height {shape.height} --width {shape.width} --frames {shape.frames}"
    if profile.sensitivity and profile.sensitivity.target != "output":
        yield f"--target {profile.sensitivity.target}"
    if made.method == "paper":
        yield "--method paper --clips CLIPS"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """As Markdown; a cell is one line without markup, as its text comes from others."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    """One line without markup: profiles come from others."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))
