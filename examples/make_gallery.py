"""Make everything in examples/gallery anew: `python -m examples.make_gallery`.

Each entry is what `python -m sencache compare` writes, as a card; the first also gets the recorded run that
the page "How it works" replays. Takes about a minute on two CPU cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sencache.app.pages.gallery import GALLERY
from sencache.app.pages.how import REPLAY, Replay
from sencache.calibration.recording import Recorder, Recording
from sencache.comparison.report import Report, load_report
from sencache.engine.attach import attach
from sencache.files import whole_folder
from sencache.gallery.making import make_card, read_finished
from sencache.models.model import load
from sencache.policies import Full
from sencache.policies.loading import load_bundled
from sencache.policies.senses import LatentDistance, OutputRate
from sencache.schema import Request

ROOT = Path(__file__).parents[1]
# Model, prompt and budget; the first entry is the one that "How it works" replays.
ENTRIES = {
    "1-half": ("tiny-wan", "a red circle moving right, and a blue square moving left", "--preset slow"),
    "2-equal-cost": ("tiny-wan", "a purple square moving in a circle, on a black background", "--nfe 25"),
    "3-fast": ("tiny-cogvideox", "a large green square growing, on a checkered background", "--preset fast"),
    "4-twenty": ("tiny-ltx", "a yellow triangle bouncing, on a striped background", "--nfe 20"),
}


def main() -> None:
    """Every entry, then the recording."""
    for name, (model, prompt, budget) in ENTRIES.items():
        with TemporaryDirectory() as compared, whole_folder(GALLERY / name, replace=True) as folder:
            asked = ["--model", model, "--prompt", prompt, *budget.split(), "--out", compared]
            subprocess.run([sys.executable, "-m", "sencache", "compare", *asked], check=True, cwd=ROOT)
            make_card(read_finished(Path(compared)), folder, name)
    first = GALLERY / next(iter(ENTRIES))
    text = replay(load_report(first / "report.json")).model_dump_json(by_alias=True)
    (first / REPLAY).write_text(text + "\n", encoding="utf-8")


def replay(report: Report) -> Replay:
    """The full run of `report` once more, recorded."""
    recording, request = record(report.model.key, report.request), report.request
    tables = recording.tables
    lane = next(lane for lane in report.lanes if lane.name == "sencache")
    assert lane.profile is not None and lane.profile.path is not None
    profile = load_bundled(Path(lane.profile.path).stem)
    assert profile.sha256 == lane.profile.sha256
    alphas = [profile.sensitivities().at(timestep) for timestep in recording.timesteps]
    return Replay(
        prompt=request.prompt,
        seed=request.seed,
        profile=lane.profile.path,
        timesteps=tuple(recording.timesteps),
        alpha_x=tuple(alpha_x for alpha_x, _ in alphas),
        alpha_t=tuple(alpha_t for _, alpha_t in alphas),
        latent_rms=rounded(tables["latent_rms"]),
        output_change=rounded(tables["output_l1"] / tables["output_norm"][:, None]),
        **{
            name: lane.config[name]
            for name in ("early_fraction", "early_tolerance", "tolerance", "max_reuses")
        },
    )


def record(key: str, request: Request) -> Recording:
    """A full run of `request` on the model named `key`."""
    model = load(key)
    encoded = model.encode(request.prompt, request.negative_prompt, request.guidance_scale)
    recorder = Recorder(None, [(LatentDistance, "output"), (OutputRate, "output")])
    with attach(model.pipe, Full(), observer=recorder):
        model.latent(model.pipe, encoded, request)
    return recorder.recording()


def rounded(table: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Five digits, which is what a float32 run repeats across machines."""
    return tuple(tuple(float(f"{value:.5g}") for value in row) for row in table.tolist())


if __name__ == "__main__":
    main()
