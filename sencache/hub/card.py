"""The page of a dataset repository that holds profiles: what each is, how it was made, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from sencache.architectures import ARCHITECTURES
from sencache.profiles.constants import Calibration
from sencache.profiles.profile import Profile
from sencache.schema import SHIFTS

MARK = "<!-- Written by `sencache profiles push`, which replaces it at the next push. -->"
PROJECT = "SenCache Space"

# Identifiers of licences that the Hub knows and profiles use; others are given by name.
HUB_LICENCES = {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "openrail"}
METHODS = {"sencache": "SenCache", "magcache": "MagCache", "teacache": "TeaCache"}
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
    intro = (
        f"{MARK}\n\n# {_plain(title)}\n\nCalibrated constants with which step caches decide when a video "
        f"diffusion transformer may reuse an earlier evaluation. Made and read by {PROJECT}."
    )
    sections = [_section(repo, file, profiles[file]) for file in sorted(profiles)]
    return "\n\n".join(
        (_front_matter(title, profiles.values()), intro, *sections, f"## Limits\n\n{LIMITS}\n")
    )


def _front_matter(title: str, profiles: Iterable[Profile]) -> str:
    licences = sorted({profile.provenance.licence.lower() for profile in profiles})
    known = [licence for licence in licences if licence in HUB_LICENCES]
    fields: dict[str, Any] = {"license": known[0] if len(known) == len(licences) == 1 else known or "other"}
    others = [licence for licence in licences if licence not in HUB_LICENCES]
    if others:
        fields |= {"license": [*known, "other"] if known else "other", "license_name": "-".join(others)[:100]}
    fields |= {
        "pretty_name": title[:200],
        "tags": ["sencache", "step-caching", "video-generation", "diffusers"],
        "viewer": False,
    }
    # JSON is YAML, and needs no second set of rules for quoting.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(("---", *lines, "---"))


def _section(repo: str, file: str, profile: Profile) -> str:
    stem = PurePosixPath(file).stem
    parts = (
        f"## {stem}\n\n![What was measured, over the timesteps]({stem}.svg)",
        table(("what", "value"), _facts(profile)),
        _presets(profile),
        _usage(repo, file, profile),
    )
    return "\n\n".join(part for part in parts if part)


def _facts(profile: Profile) -> list[tuple[str, str]]:
    schedule, shape, model = profile.schedule, profile.shape, profile.model
    shifts = {key: schedule.config.get(key) for key in ("flow_shift", "shift", "mu", "snr_shift_scale")}
    shift = {key: value for key, value in shifts.items() if isinstance(value, (int, float))}
    size = (
        f"{shape.width}x{shape.height}, {shape.frames} frames, latent {list(shape.latent)}" if shape else "?"
    )
    return [
        (
            "checkpoint",
            f"{model.id}, {model.architecture}" + (f", {model.revision}" if model.revision else ""),
        ),
        ("serves", ", ".join(served(profile)) or "nothing"),
        ("schedule", f"{schedule.scheduler}, {schedule.steps} steps" + _settings(shift, ", ")),
        ("shape", size),
        ("guidance, precision", f"{profile.guidance_scale}, {profile.dtype}"),
        *_measured(profile),
        ("provenance", f"{profile.provenance.kind}: {profile.provenance.source}"),
        ("licence", profile.provenance.licence),
        ("sha256", profile.sha256),
    ]


def _measured(profile: Profile) -> list[tuple[str, str]]:
    rows = []
    if table := profile.sensitivity:
        rows.append(("sensitivities", f"of the network's {table.target}, mean of {table.samples} videos"))
        rows.append(("spread over videos", _spread(table.alpha_x, table.alpha_x_std, "alpha_x")))
        rows.append(("", _spread(table.alpha_t, table.alpha_t_std, "alpha_t")))
    if (fit := profile.teacache) and fit.monotone is False:
        rows.append(("TeaCache polynomial", "not monotone over the changes that it was fitted on"))
    if made := profile.calibration:
        versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
        where = f"noised latents of {len(made.clips)} clips" if made.clips else "the model's own trajectories"
        rows.append(("measured", f"{made.date}, on {where}, {len(made.seeds)} videos, {made.seconds:.0f} s"))
        rows.append(("versions", versions))
        rows.append(("prompts", "; ".join(made.prompts)[:1000]))
    return rows


def _spread(means: tuple[float, ...], stds: tuple[float, ...] | None, name: str) -> str:
    shares = sorted(std / mean for mean, std in zip(means, stds or (), strict=False) if mean)
    if not shares:
        return f"{name}: not recorded"
    middle = shares[len(shares) // 2]
    return f"{name}: median {middle:.1%}, worst timestep {shares[-1]:.1%} of the mean (standard deviation)"


def served(profile: Profile) -> list[str]:
    """The methods that the profile has constants for, by the names of their classes."""
    return [METHODS[method] for method in profile.serves]


def _presets(profile: Profile) -> str:
    rows = [
        (preset, method, _settings(settings) or "as by default", _evaluations(profile, preset, method))
        for preset, methods in profile.presets.items()
        for method, settings in methods.items()
    ]
    head = ("preset", "method", "settings", f"evaluations of {profile.schedule.steps}, mean (least to most)")
    return table(head, rows) if rows else ""


def _evaluations(profile: Profile, preset: str, method: str) -> str:
    spread = profile.preset_nfe.get(preset, {}).get(method)
    return f"{spread.mean:.1f} ({spread.min} to {spread.max})" if spread else "not recorded"


def _settings(settings: Mapping[str, Any], before: str = "") -> str:
    return before + ", ".join(f"{key}={value}" for key, value in settings.items()) if settings else ""


def _usage(repo: str, file: str, profile: Profile) -> str:
    pull = f"python -m sencache profiles pull {file} --repo {repo} --revision COMMIT --out {file}"
    text = (
        "Use it; `COMMIT` is the full hash of a commit here, so that the file cannot change:\n\n"
        f"```sh\n{pull}\n```"
    )
    for method in served(profile)[:1]:
        preset = f', **profile.presets["slow"]["{method.lower()}"]' if _has_slow(profile, method) else ""
        text += (
            f'\n\n```python\nprofile = sencache.load_profile("{file}")\n'
            f"with sencache.attach(pipe, sencache.{method}(profile{preset})) as trace:\n"
            "    video = pipe(prompt).frames[0]\n```"
        )
    return text + _reproduce(file, profile)


def _has_slow(profile: Profile, method: str) -> bool:
    return method.lower() in profile.presets.get("slow", {})


def _reproduce(file: str, profile: Profile) -> str:
    if profile.calibration is None:
        return ""
    words = " ".join(_calibration_options(profile, profile.calibration))
    return (
        f"\n\nMeasure it again; `MODEL` is the key of {_plain(profile.model.id)} in `sencache models`, and "
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
    if (
        isinstance(shift, (int, float))
        and shift is not True
        and not schedule.config.get("use_dynamic_shifting")
    ):
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
