"""Every pipeline class, from a folder on disk to a verified report: loaded, calibrated, compared, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
from diffusers import CogVideoXDPMScheduler
from layouts import LAYOUTS
from PIL import Image
from typer.testing import CliRunner

from sencache.architectures import architecture_of
from sencache.calibration.profiling import CalibrationPlan, calibrate
from sencache.cli.commands import DEFAULT_METHODS, app
from sencache.comparison.compare import compare
from sencache.comparison.lanes import Finished, lane
from sencache.comparison.plan import parse_lanes
from sencache.comparison.report import Report, load_report
from sencache.comparison.saving import Saving
from sencache.comparison.stepping import round_robin
from sencache.comparison.verify import profiles_at_hand, verify
from sencache.errors import SencacheError
from sencache.models.checkpoint import find_spec, measure_weights
from sencache.models.loading import load_pipeline
from sencache.models.model import Model, load
from sencache.models.placement import Placement
from sencache.models.stills import read_still, still_pixels
from sencache.policies import Fixed
from sencache.profiles.profile import Profile
from sencache.schema import Request, Still

STEPS = 6


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stills") / "gradient.png"
    Image.radial_gradient("L").resize((50, 40)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.save(layout, tmp_path_factory.mktemp(layout) / "checkpoint")


@pytest.fixture(scope="module")
def model(layout: str, folder: Path) -> Model:
    return load(find_spec(str(folder), LAYOUTS[layout].image))


@pytest.fixture(scope="module")
def asked(layout: str, still: Path) -> Request:
    made = LAYOUTS[layout]
    image = read_still(still) if made.image else None
    size = {"height": made.height, "width": made.width, "frames": made.frames}
    return Request(prompt="a cat", steps=STEPS, guidance_scale=3.0, image=image, **size)


@pytest.fixture(scope="module")
def profile(model: Model, asked: Request) -> Profile:
    return calibrate(CalibrationPlan(model, asked, ["a cat"], samples=1))


@pytest.fixture(scope="module")
def report(model: Model, asked: Request, profile: Profile, tmp_path_factory: Any) -> Report:
    """Of all methods, written to disk and read back."""
    events = list(compare(model, asked, parse_lanes(DEFAULT_METHODS), profile))
    folder = tmp_path_factory.mktemp("report")
    with Saving(folder, model.spec.fps, beside=False) as saving:
        for event in events:
            saving.take(event)
    return load_report(folder / "report.json")


def frames_of(model: Model, pipe: Any, asked: Request, callback: Any = None) -> Any:
    encoded = model.encode(asked.prompt, asked.negative_prompt, asked.guidance_scale)
    return model.generate(pipe, encoded, asked, callback)


def test_a_folder_is_all_it_takes(layout: str, folder: Path, model: Model, asked: Request) -> None:
    """Class, rules and parts are found from the files; the frames asked for are the frames that come."""
    assert load(str(folder)).pipe.__class__.__name__ in (type(model.pipe).__name__, "WanPipeline")
    assert model.spec.from_image == LAYOUTS[layout].image
    assert (model.info().id, model.info().revision) == ("checkpoint", None)
    frames = frames_of(model, model.pipe, asked)
    assert frames.shape == (asked.frames, asked.height, asked.width, 3)
    assert np.isfinite(frames).all() and frames.std() > 0


def test_headers_give_the_size_that_loading_takes(folder: Path, model: Model) -> None:
    weights = measure_weights(model.spec, folder, "float32")
    for name, size in weights.parts.items():
        part = getattr(model.pipe, name)
        loaded = {id(p): p.numel() * p.element_size() for p in part.parameters()}
        # Positions are stored as a buffer in some, tied embeddings once.
        stored = sum(loaded.values())
        assert stored <= size <= stored * 1.2 + 20_000, name
    parts = [part for name, part in model.pipe.components.items() if name.startswith("transformer") and part]
    blocks = [
        sum(p.numel() * 4 for p in block.parameters())
        for part in parts
        for name in architecture_of(part).blocks
        for block in part.get_submodule(name)
    ]
    assert (weights.blocks, weights.block) == (sum(blocks), max(blocks))


def test_a_profile_is_measured_on_it(model: Model, profile: Profile) -> None:
    assert profile.model.architecture == model.spec.architecture
    assert profile.sensitivity is not None and profile.magcache is not None
    assert len(profile.sensitivity.alpha_x) == STEPS - 1 and len(profile.magcache.ratios) == STEPS
    assert all(value > 0 for value in profile.sensitivity.alpha_x)


def test_all_methods_run_on_it_and_every_decision_holds(report: Report, profile: Profile) -> None:
    assert verify(report, profiles_at_hand([profile])) == []
    assert {entry.method for entry in report.lanes} >= {"none", "sencache", "magcache", "control"}
    reusing = [entry for entry in report.lanes if entry.target and entry.nfe < entry.steps]
    assert reusing, "no method reused a single step"
    for entry in reusing:
        assert entry.cache_bytes > 0 and entry.metrics is not None


def test_a_report_names_the_still_and_never_holds_it(layout: str, report: Report, still: Path) -> None:
    image = report.request.image
    assert (image is not None) == LAYOUTS[layout].image
    if image is not None:
        assert image.name == "gradient.png" and len(image.sha256) == 64
        assert str(still.parent) not in report.to_json()
        with pytest.raises(SencacheError, match="known by its name alone"):
            still_pixels(image, 32, 32)


FROM_STILLS = [name for name, made in LAYOUTS.items() if made.image]


@pytest.mark.parametrize("layout", FROM_STILLS, indirect=True)
def test_a_still_is_encoded_once_for_all_lanes(
    model: Model, asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every lane makes what it would make alone, with noise drawn at every step too."""
    if model.spec.architecture == "cogvideox":
        other = CogVideoXDPMScheduler.from_config(model.pipe.scheduler.config)
        monkeypatch.setattr(model.pipe, "scheduler", other)
    calls: list[str] = []
    for name in ("vae", "image_encoder"):
        part = getattr(model.pipe, name, None)
        if part is not None:
            method = "encode" if name == "vae" else "forward"
            own = getattr(part, method)
            counted = lambda *a, own=own, name=name, **k: (calls.append(name), own(*a, **k))[1]  # noqa: E731
            monkeypatch.setattr(part, method, counted)
    alone = frames_of(model, model.pipe, asked)
    once = list(calls)
    encoded = model.encode(asked.prompt, asked.negative_prompt, asked.guidance_scale)
    generate = lambda pipe, callback: model.generate(pipe, encoded, asked, callback)  # noqa: E731
    lanes = [lane(model.pipe, Fixed(interval=1), generate, model.device) for _ in range(3)]
    frames = [item.frames for _, item in round_robin(lanes) if isinstance(item, Finished)]
    assert len(frames) == 3 and all(np.array_equal(each, alone) for each in frames)
    assert calls == 2 * once and "vae" in once
    other_seed = model.generate(model.pipe, encoded, asked.model_copy(update={"seed": 1}))
    assert not np.array_equal(other_seed, alone)
    assert {"encode_image", "prepare_latents"}.isdisjoint(vars(model.pipe))


@pytest.mark.parametrize(
    ("layout", "transformers"),
    [("wan", "device"), ("wan2.2-a14b-image", "swapped"), ("cogvideox-5b", "blocks"), ("hunyuan", "blocks")],
    indirect=["layout"],
)
def test_wherever_its_parts_wait_the_frames_are_the_same(
    folder: Path, model: Model, asked: Request, transformers: Any
) -> None:
    """On a CPU: the same moves, from and to the same place. Tiles are of no effect at this size."""
    placement = Placement("host", transformers, True, 0, 0)
    pipe = load_pipeline(model.spec, folder, model.device, "float32", placement)
    pipe.scheduler = model.pipe.scheduler
    aside, pipe.text_encoder = pipe.text_encoder, None
    placed = Model(model.spec, pipe, model.device, model.dtype, None, placement, aside)
    policy = Fixed(interval=3, forced_first=1)
    results = []
    for each in (model, placed):

        def generate(pipe: Any, callback: Any, each: Model = each) -> Any:
            return frames_of(each, pipe, asked, callback)

        *_, done = lane(each.pipe, policy, generate, each.device)
        assert isinstance(done, Finished) and done.trace.nfe < STEPS
        results.append(done.frames)
    assert np.array_equal(*results)
    assert placed.pipe.text_encoder is None and not hasattr(placed.pipe.transformer, "_diffusers_hook")
    assert placed.info().placement == str(placement)


@pytest.mark.parametrize("layout", ["wan2.2-a14b-image"], indirect=True)
def test_the_command_line_takes_a_folder_and_a_still(folder: Path, still: Path, tmp_path: Path) -> None:
    """Calibrated, compared on the profile just made, and verified; a scale for each of the two experts."""
    common = ["--model", str(folder), "--image", str(still), "--steps", str(STEPS), "--dtype", "fp32"]
    common += ["--height", "32", "--width", "32", "--frames", "5", "--guidance-2", "2.5"]
    profile, out = str(tmp_path / "own.json"), tmp_path / "out"

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    run("calibrate", *common, "--samples", "1", "--out", profile)
    lanes = ("--methods", "none,sencache,magcache", "--profile", profile)
    run("compare", *common, "--prompt", "a cat", *lanes, "--out", str(out))
    assert "all hold" in run("verify", str(out / "report.json"), "--profile", profile)
    report = load_report(out / "report.json")
    assert report.model.key == "checkpoint" and str(folder.parent) not in report.to_json()
    assert report.request.guidance_scale_2 == 2.5
    assert report.request.image == Still(name=still.name, sha256=read_still(still).sha256)
    assert {path.name for path in out.iterdir()} == {
        "report.json",
        *(f"{name}.mp4" for name in ("none", "sencache", "magcache", "fewer-steps")),
    }
