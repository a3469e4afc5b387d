"""Architectures that were added as one file each: attached to their own pipelines, and described wholly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import layouts
import pytest
import torch
from layouts import LAYOUTS

from sencache.architectures import ARCHITECTURES, architecture_of, find_architecture
from sencache.architectures.base import Architecture, BlockCall
from sencache.calibration.profiling import CalibrationPlan, calibrate
from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.models.checkpoint import find_spec, missing_files
from sencache.models.checks import check_request
from sencache.models.model import Model, load
from sencache.policies import Fixed
from sencache.policies.loading import parse_profile
from sencache.schema import Request

STEPS = 6
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["skyreels", "mochi", "hunyuan"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.save(name, tmp_path_factory.mktemp(name) / "checkpoint")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(str(folder))


def request_of(name: str, **changes: Any) -> Request:
    layout = LAYOUTS[name]
    size = {"height": layout.height, "width": layout.width, "frames": layout.frames}
    return Request(**{"prompt": "a cat", "steps": STEPS, "guidance_scale": 3.0, **size, **changes})


def latent(model: Model, **options: Any) -> torch.Tensor:
    """Of one call of the pipeline as its users make it."""
    layout = LAYOUTS[model.spec.architecture]
    return model.pipe(
        prompt="a cat",
        negative_prompt="a dog",
        height=layout.height,
        width=layout.width,
        num_frames=layout.frames,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(0),
        **({"guidance_scale": 3.0, "output_type": "latent"} | options),
    ).frames


# With `true_cfg_scale` a step of HunyuanVideo calls the transformer twice.
RUNS = pytest.mark.parametrize(
    ("name", "options", "calls"),
    [("skyreels", {}, 2), ("mochi", {}, 1), ("hunyuan", {}, 1), ("hunyuan", {"true_cfg_scale": 2.0}, 2)],
    ids=["skyreels", "mochi", "hunyuan", "hunyuan-true-cfg"],
    indirect=["name"],
)


@RUNS
def test_nothing_reused_is_the_plain_pipeline(model: Model, options: dict[str, Any], calls: int) -> None:
    plain = latent(model, **options)
    for target in ("residual", "output", "delta"):
        with attach(model.pipe, Fixed(interval=1, target=target)) as trace:
            assert torch.equal(latent(model, **options), plain), target
        assert [record.decision for record in trace] == ["compute"] * STEPS
        assert trace.transformer_calls == STEPS * calls
    assert torch.equal(latent(model, **options), plain), "something was left behind"


@RUNS
def test_a_reused_step_calls_no_block_of_any_list(model: Model, options: dict[str, Any], calls: int) -> None:
    """And every other step calls each once a call; the pipeline's guidance is seen, not guessed."""
    ran = Counter[str]()
    lists = architecture_of(model.pipe.transformer).blocks
    handles = [
        block.register_forward_hook(lambda *_, key=f"{name}.{index}": ran.update([key]))
        for name in lists
        for index, block in enumerate(model.pipe.transformer.get_submodule(name))
    ]
    with attach(model.pipe, Fixed(interval=2, forced_first=1)) as trace:
        cached = latent(model, **options)
    for handle in handles:
        handle.remove()
    assert 0 < trace.nfe < STEPS and "no_cache" not in {record.reason for record in trace}
    assert set(ran.values()) == {trace.nfe * calls} and trace.transformer_calls == trace.nfe * calls
    assert {key.partition(".")[0] for key in ran} == set(lists)
    assert cached.isfinite().all() and not torch.equal(cached, latent(model, **options))


def test_a_profile_of_it_is_read_back(name: str, model: Model) -> None:
    profile = calibrate(CalibrationPlan(model, request_of(name), ["a cat"], samples=1))
    again = parse_profile(profile.to_json().encode(), "own.json")
    timesteps = again.schedule.timesteps
    assert again == profile and again.model.architecture == name and timesteps
    assert (timesteps[0] < timesteps[-1]) == (name == "mochi")
    profile.require(name)
    with pytest.raises(SencacheError, match=f"cannot serve a wan model|{name}"):
        profile.require("wan")


def test_a_clean_latent_is_what_the_pipeline_decodes(
    name: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, vae = find_architecture(name).clean, model.pipe.vae
    layout, decode, seen = LAYOUTS[name], vae.decode, []
    assert clean is not None
    shape = (1, 3, layout.frames, layout.height, layout.width)
    with torch.no_grad():
        encoded = vae.encode(torch.rand(shape) * 2 - 1).latent_dist.mode()
    monkeypatch.setattr(vae, "decode", lambda z, **options: (seen.append(z), decode(z, **options))[1])
    given = clean(model.pipe, encoded)

    def end_there(_: Any, index: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        assert tensors["latents"].shape == given.shape
        return {"latents": given}

    latent(model, callback_on_step_end=end_there, output_type="pt")
    torch.testing.assert_close(seen[0], encoded)


def test_guidance_that_is_an_input_takes_no_negative_prompt(name: str, model: Model) -> None:
    asked = request_of(name, negative_prompt="a dog")
    if find_architecture(name).embedded_guidance:
        with pytest.raises(SencacheError, match=r"cannot use the negative prompt 'a dog'; leave it out"):
            check_request(model.spec, asked)
    else:
        check_request(model.spec, asked)


def test_a_second_tokenizer_needs_its_vocabulary(name: str, folder: Path) -> None:
    for part in (path for path in folder.glob("tokenizer*") if path.name != "tokenizer"):
        vocabulary = part / "vocab.json"
        content = vocabulary.read_bytes()
        vocabulary.unlink()
        assert missing_files(folder) == [f"{part.name}/vocab.json"]
        vocabulary.write_bytes(content)
    assert missing_files(folder) == [] and find_spec(str(folder)).architecture == name


def test_where_nobody_knows_the_memory_of_the_vae_it_says_so(
    name: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(str(folder))
    warned = f"memory is not planned for the VAE of {folder.name}" in caplog.text
    assert warned == (find_architecture(name).decoder is None)


# ---- the object itself


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "My Model"}, "'My Model' cannot name an architecture; use small letters"),
        ({"blocks": "blocks"}, "wan has 'blocks' as blocks; give at least one, not as a bare text"),
        ({"transformers": ()}, r"wan has \(\) as transformers"),
        ({"describe": None}, "wan has None as describe"),
        ({"signals": {"temb": "temb"}}, "the signal 'temb' of wan is a str; give a BlockSignal"),
    ],
)
def test_what_is_missing_or_malformed_raises_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SencacheError, match=message):
        replace(ARCHITECTURES["wan"], **changes)


def test_what_nobody_knows_is_named_with_what_there_is() -> None:
    with pytest.raises(SencacheError, match=r"unknown architecture 'flux'; use one of .*hunyuan.*wan"):
        find_architecture("flux")
    with pytest.raises(SencacheError, match=r"inside a Linear; .* use a pipeline with one of .*Wan"):
        architecture_of(torch.nn.Linear(1, 1))
    bare = Architecture("bare", ("Bare",), ("blocks",), 1)
    assert bare.default_signal is None and not bare.pipelines


def test_states_are_moved_where_the_model_put_them() -> None:
    old, new = torch.zeros(1), torch.ones(1)
    for call in (BlockCall((old, old, 3), {}), BlockCall((old,), {"encoder_hidden_states": old, "temb": 3})):
        moved = call.with_states(new, new)
        assert moved.return_value(True) == (new, new) and moved["temb"] == 3
        assert (len(moved.args), set(moved.kwargs)) == (len(call.args), set(call.kwargs))
        assert call.with_states(new).return_value(True) == (new, old)
