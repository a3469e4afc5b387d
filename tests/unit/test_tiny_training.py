"""Training: the loop goes on where it was killed, and what is trained is what the pipelines run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, FlowMatchEulerDiscreteScheduler

from sencache.errors import SencacheError
from sencache.models.spec import ASSETS
from sencache.tiny import cogvideox, loop, ltx, text, wan
from sencache.tiny.autoencoding import Autoencoding
from sencache.tiny.denoising import Denoising
from sencache.tiny.export import FILE_LIMIT, MODEL_LIMIT, check_sizes
from sencache.tiny.families import FAMILIES, family
from sencache.tiny.latents import Latents, make, read
from sencache.tiny.noise import Flow, Velocity
from sencache.tiny.optim import Muon, optimizers, orthogonal
from sencache.tiny.training import Plan, train

ALL = pytest.mark.parametrize("module", FAMILIES.values(), ids=FAMILIES)


# ---- the loop


class Killed(Exception):
    """Stands for a kill."""


class Line:
    """A task that fits a line; killed in the step `kill`."""

    name, rate, hold, averaging = "line", 0.05, 0.5, 0.9

    def __init__(self, kill: int | None = None) -> None:
        torch.manual_seed(0)
        self.layer, self.kill, self.looked = torch.nn.Linear(3, 40), kill, 0
        self.done: list[float] = []
        self.optimizers = optimizers(self.layer.named_parameters(), lambda name, p: p.ndim == 2, decay=0.01)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.layer.named_parameters())

    def loss(self, step: int, done: float) -> dict[str, torch.Tensor]:
        if step == self.kill:
            raise Killed
        self.done.append(done)
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        error = self.layer(x) - x.sum(1, keepdim=True)
        return {"loss": error.square().mean(), "bias": self.layer.bias.detach().abs().mean()}

    def look(self, folder: Path) -> None:
        self.looked += 1
        (folder / "look.txt").write_text(str(self.layer.weight.detach().sum().item()))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every step takes one second."""
    ticks = itertools.count()
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(ticks)))


def weights(task: Line) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in task.parameters().values()])


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kill", [31, 85, 119])
def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path: Path, kill: int) -> None:
    whole, killed, again = Line(), Line(kill), Line()
    loop.Loop(whole, tmp_path / "whole", minutes=2, every=10).run()
    with pytest.raises(Killed):
        loop.Loop(killed, tmp_path / "parts", minutes=2, every=10).run()
    assert killed.looked >= 2
    rest = loop.Loop(again, tmp_path / "parts", minutes=2, every=10)
    assert 0 < rest.at.step <= kill
    rest.run()
    assert torch.equal(weights(again), weights(whole))
    histories = [json.loads((tmp_path / part / "line.json").read_text()) for part in ("whole", "parts")]
    assert histories[0] == histories[1] and len(histories[0]) == 5
    assert histories[0][-1]["loss"] < 0.5 * histories[0][0]["loss"]


@pytest.mark.usefixtures("clock")
def test_a_finished_training_trains_no_more(tmp_path: Path) -> None:
    task = Line()
    loop.Loop(task, tmp_path, minutes=0.5).run()
    after = Line(kill=30)
    loop.Loop(after, tmp_path, minutes=0.5).run()
    assert torch.equal(weights(task), weights(after))
    assert task.done == pytest.approx([second / 30 for second in range(30)]) and not after.done


@pytest.mark.usefixtures("clock")
def test_curves_and_pictures_are_of_the_averaged_weights(tmp_path: Path) -> None:
    task = Line()
    loop.Loop(task, tmp_path, minutes=1, every=10).run()
    assert float((tmp_path / "look.txt").read_text()) == pytest.approx(
        task.layer.weight.detach().sum().item()
    )
    curves = (tmp_path / "line.svg").read_text()
    assert curves.startswith("<svg") and curves.count("<polyline") == 2 and "nan" not in curves


@pytest.mark.usefixtures("clock")
def test_divergence_is_said_with_the_remedy(tmp_path: Path) -> None:
    task = Line()
    task.loss = lambda step, done: {"loss": task.layer.bias.sum() * float("nan")}  # type: ignore[method-assign]
    with pytest.raises(SencacheError, match=r"diverged at step 1; delete .*another seed"):
        loop.Loop(task, tmp_path, minutes=1).run()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    loop.Loop(Line(), tmp_path, minutes=0).save()
    other = Line()
    other.layer = torch.nn.Sequential(other.layer)  # type: ignore[assignment]
    with pytest.raises(SencacheError, match=r"line\.pt was written by a training of another model"):
        loop.Loop(other, tmp_path, minutes=0)


# ---- the optimiser


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32)])
def test_an_orthogonal_update_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix, iterations=8))
    assert values.min() > 0.6 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    cosine = (orthogonal(matrix, iterations=8) * (left @ right)).sum() / (values.norm() * min(shape) ** 0.5)
    assert cosine > 0.95


def test_updates_have_the_size_of_adams() -> None:
    weight = torch.nn.Parameter(torch.zeros(48, 2, 3, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.01, weight_decay=0.0).step()
    assert 0.1 < weight.detach().square().mean().sqrt() / 0.01 < 0.3


# ---- what is predicted


def test_flow_is_what_the_scheduler_mixes() -> None:
    clean, noise = torch.randn(2, 3, 4, 2, 2, 2).unbind(0)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(10)
    levels = scheduler.sigmas[:3]
    noisy, wanted = Flow().mix(clean, noise, levels)
    mixed = scheduler.scale_noise(clean, scheduler.timesteps[:3], noise)
    torch.testing.assert_close(noisy, mixed)
    torch.testing.assert_close(Flow().timesteps(levels), scheduler.timesteps[:3])
    # One step to the end along the right prediction arrives.
    torch.testing.assert_close(noisy - levels.view(-1, 1, 1, 1, 1) * wanted, clean)


def test_velocity_is_what_the_scheduler_mixes_and_undoes() -> None:
    scheduler = CogVideoXDDIMScheduler.from_config(cogvideox._scheduler().config)
    clean, noise = torch.randn(2, 4, 4, 2, 2, 2).unbind(0)
    levels = torch.tensor([3, 250, 700, 999])
    noisy, wanted = Velocity(scheduler).mix(clean, noise, levels)
    torch.testing.assert_close(noisy, scheduler.add_noise(clean, noise, levels))
    torch.testing.assert_close(wanted, scheduler.get_velocity(clean, noise, levels))
    scheduler.set_timesteps(50)
    step = scheduler.step(wanted[3:], int(scheduler.timesteps[0]), noisy[3:])
    torch.testing.assert_close(step.pred_original_sample, clean[3:])


@pytest.mark.parametrize("rule", [Flow(), cogvideox.noise], ids=["flow", "velocity"])
def test_noise_levels_cover_the_schedule(rule: Any) -> None:
    torch.manual_seed(0)
    timesteps = rule.timesteps(rule.levels(4000)).float()
    assert 0 <= timesteps.min() < 20
    assert 980 < timesteps.max() <= 1000
    counts = torch.histc(timesteps, bins=5, min=0, max=1000)
    assert counts.min() > 4000 * 0.05


# ---- training runs what the pipelines run


@ALL
def test_own_attention_is_the_pipelines(module: ModuleType) -> None:
    torch.manual_seed(0)
    model, words = module.transformer(), text.tokenizer()
    torch.nn.init.normal_(model.proj_out.weight, std=0.1)
    encoder = module.text_encoder(len(words))
    ids = text.token_ids(words, ["a red circle moving right", ""])
    x, t = module.from_shared(torch.randn(2, 16, 5, 8, 8)), torch.tensor([900, 20])
    with torch.no_grad():
        embedded = module.embed(encoder, ids)
        plain = module.predict(model, x, t, *embedded)
        model.set_attn_processor(module.processor())
        fast = module.predict(model, x, t, *embedded)
    assert plain.shape == x.shape and plain.std() > 0.01
    torch.testing.assert_close(fast, plain, atol=2e-5, rtol=1e-4)


@ALL
def test_training_predicts_what_the_pipeline_computes(module: ModuleType) -> None:
    """The call of the transformer in a guided step of the whole pipeline, restated."""
    torch.manual_seed(0)
    words = text.tokenizer()
    model, encoder = module.transformer().eval(), module.text_encoder(len(words)).eval()
    torch.nn.init.normal_(model.proj_out.weight, std=0.1)
    parts = {"vae": module.autoencoder(), "transformer": model, "text_encoder": encoder, "tokenizer": words}
    pipe = module.pipeline(parts)
    pipe.set_progress_bar_config(disable=True)
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    model.register_forward_hook(lambda _, args, kwargs, out: calls.append((kwargs, out[0])), with_kwargs=True)
    size = {"height": 64, "width": 64, "num_frames": 17, "max_sequence_length": text.LENGTH}
    pipe("a red circle moving right", num_inference_steps=1, guidance_scale=3, output_type="latent", **size)
    kwargs, seen = calls[0]
    x = kwargs["hidden_states"][-1:]
    if module is cogvideox:
        x, seen = x.transpose(1, 2), seen.transpose(1, 2)
    if module is ltx:
        x, seen = (v[-1:].transpose(1, 2).unflatten(2, (5, 4, 4)) for v in (x, seen))
    with torch.no_grad():
        embedded = module.embed(encoder, text.token_ids(words, ["a red circle moving right"]))
        expected = module.predict(model, x, kwargs["timestep"][-1:], *embedded)
    torch.testing.assert_close(seen[-1:], expected, atol=2e-5, rtol=1e-4)


def test_whole_clips_are_coded_as_in_chunks() -> None:
    torch.manual_seed(0)
    module = wan.autoencoder()
    codec, video = wan.codec(module), torch.rand(1, 3, 17, 64, 64) * 2 - 1
    with torch.no_grad():
        moments = module._encode(video)
        torch.testing.assert_close(codec.encode(video), moments, atol=1e-4, rtol=1e-3)
        whole = codec.decode(moments[:, :16]).clamp(-1, 1)
        torch.testing.assert_close(whole, module._decode(moments[:, :16]).sample, atol=1e-4, rtol=1e-3)


@ALL
def test_codecs_do_what_the_classes_do(module: ModuleType) -> None:
    torch.manual_seed(0)
    autoencoder = module.autoencoder().eval()
    codec, video = module.codec(autoencoder), torch.rand(1, 3, 17, 64, 64) * 2 - 1
    with torch.no_grad():
        mean = codec.encode(video).chunk(2, dim=1)[0]
        posterior = autoencoder.encode(video).latent_dist
        torch.testing.assert_close(mean, posterior.mode(), atol=1e-4, rtol=1e-3)
        picture = codec.decode(mean)
        torch.testing.assert_close(
            picture.clamp(-1, 1), autoencoder.decode(mean).sample.clamp(-1, 1), atol=1e-4, rtol=1e-3
        )
    assert picture.shape == video.shape
    assert mean.shape[1:] == module.from_shared(torch.zeros(1, 16, 5, 8, 8)).shape[1:]


def test_ltx_starts_with_wans_patches_and_words() -> None:
    torch.manual_seed(0)
    trained, model, latent = wan.transformer(), ltx.transformer(), torch.randn(2, 16, 5, 8, 8)
    ltx.start_from(model, trained)
    with torch.no_grad():
        patches = trained.patch_embedding(latent).flatten(2).transpose(1, 2)
        packed = ltx.from_shared(latent).flatten(2).transpose(1, 2)
        torch.testing.assert_close(model.proj_in(packed), patches, atol=1e-5, rtol=1e-4)
        t = torch.tensor([10, 800])
        theirs = trained.condition_embedder(t, torch.randn(2, 3, text.WIDTH))[1]
        torch.testing.assert_close(model.time_embed(t, batch_size=2)[0], theirs)


def test_cogvideox_starts_with_wans_patches_and_modulations() -> None:
    torch.manual_seed(0)
    trained, model, latent = wan.transformer(), cogvideox.transformer(), torch.randn(1, 16, 5, 8, 8)
    torch.nn.init.normal_(trained.proj_out.weight)
    cogvideox.start_from(model, trained)
    with torch.no_grad():
        patches = trained.patch_embedding(latent).flatten(2).transpose(1, 2)
        tokens = model.patch_embed(torch.zeros(1, 2, text.WIDTH), latent.transpose(1, 2))[:, 2:]
        torch.testing.assert_close(tokens, patches, atol=1e-5, rtol=1e-4)
        # How far along the straight line timestep 400 is: at an equal ratio of noise to signal.
        alpha = cogvideox.noise.alphas[400]
        level = 1000 * (1 - alpha).sqrt() / ((1 - alpha).sqrt() + alpha.sqrt())
        theirs = trained.condition_embedder(level[None], torch.zeros(1, 1, text.WIDTH))[1].view(6, -1)
        mine = torch.nn.functional.silu(model.time_embedding(model.time_proj(torch.tensor([400]))))
        for block, other in zip(model.transformer_blocks, trained.blocks, strict=True):
            wanted = theirs + other.scale_shift_table[0]
            for norm, part in ((block.norm1, wanted[:3]), (block.norm2, wanted[3:])):
                video, caption = norm.linear(mine).view(6, -1).chunk(2)
                assert (video - part).square().mean() < 0.05 * part.square().mean()
                assert caption.count_nonzero() == 0


# ---- text


def test_words_keep_their_embedding_when_the_vocabulary_grows() -> None:
    words = text.tokenizer()
    old, new = text.umt5(len(words)), text.t5(len(words))
    text.take_over(new, words, old, words)
    assert torch.equal(new.get_input_embeddings().weight, old.get_input_embeddings().weight)
    mine, theirs = new.state_dict(), old.state_dict()
    same = [name for name in mine if name in theirs and torch.equal(mine[name], theirs[name])]
    assert len(same) == len(mine)


def test_unknown_words_are_one_token_and_all_captions_fit() -> None:
    words = text.tokenizer()
    assert len(set(words("zebra zebu").input_ids[:2])) == 1
    from sencache.tiny.clips import sample_clip

    rng = np.random.default_rng(0)
    ids = words([sample_clip(rng).caption for _ in range(500)]).input_ids
    assert max(map(len, ids)) <= text.LENGTH
    assert words.unk_token_id not in {token for row in ids for token in row}


# ---- tasks and files


def test_latents_are_made_once_and_read_back(tmp_path: Path) -> None:
    encoded: list[int] = []

    def encode(video: torch.Tensor) -> torch.Tensor:
        encoded.append(len(video))
        return video.mean(dim=(2, 3, 4))[:, :, None, None, None].float()

    first = make(tmp_path, 48, 0, encode)
    sorted(tmp_path.glob("*.npz"))[1].unlink()
    again = make(tmp_path, 48, 0, encode)
    assert encoded == [16] * 4 and len(again) == 48
    assert again.captions == first.captions and torch.equal(again.values, first.values)
    with pytest.raises(SencacheError, match="holds no latents"):
        read(tmp_path / "empty")


def test_a_batch_is_a_function_of_seed_and_step_and_epochs_see_every_clip() -> None:
    latents = Latents(torch.zeros(96, 16, 5, 8, 8).half(), ["a red circle spinning"] * 96)
    words = text.tokenizer()

    def task(seed: int) -> Denoising:
        torch.manual_seed(0)
        parts = wan.transformer(), wan.text_encoder(len(words))
        return Denoising(wan, *parts, words, latents, seed, batch=8, compiled=False)

    one = task(0)
    assert (
        one.loss(5, 0.0)["loss"].item()
        == task(0).loss(5, 0.0)["loss"].item()
        != task(1).loss(5, 0.0)["loss"].item()
    )
    epoch = torch.cat([one._chosen(step) for step in range(12)])
    assert sorted(epoch.tolist()) == list(range(96))
    assert not torch.equal(epoch, torch.cat([one._chosen(step) for step in range(12, 24)]))


def test_a_taught_autoencoder_learns_the_teachers_latents() -> None:
    torch.manual_seed(0)
    codec = ltx.codec(ltx.autoencoder())
    task = Autoencoding(codec, 0, batch=1, teacher=lambda video: torch.zeros(len(video), 64, 5, 4, 4))
    losses = task.loss(0, 0.0)
    assert losses["held"] > 0 and set(losses) == {"loss", "mse", "held"}
    losses["loss"].backward()
    grads = {name.split(".")[0] for name, p in codec.module.named_parameters() if p.grad is not None}
    assert grads == {"encoder", "decoder"}


def test_cut_outs_show_objects_until_whole_clips_come_at_the_end() -> None:
    task = Autoencoding(wan.codec(wan.autoencoder()), 0, batch=1)
    whole, late, cut = (
        task._batch(step, np.random.default_rng(1), done) for step, done in ((4, 0.1), (5, 0.9), (5, 0.1))
    )
    assert whole[0].shape == late[0].shape == (1, 3, 17, 64, 64)
    assert torch.equal(whole[0], late[0])
    video, weight = cut
    assert video.shape == (8, 3, 9, 32, 32) and weight.shape == (8, 1, 9, 32, 32)
    assert weight.mean().item() == pytest.approx(1)
    heavy = weight > weight.min()
    assert heavy.flatten(2).any(2).all() and not heavy.all()
    assert heavy.float().mean() > 2 * (whole[1] > whole[1].min()).float().mean()


@pytest.mark.parametrize(
    ("family", "start", "share"), [(wan, None, 0.0), (ltx, ASSETS / "tiny-wan", 0.0), (wan, None, 1.0)]
)
def test_an_autoencoder_nobody_trained_is_refused(
    tmp_path: Path, family: ModuleType, start: Path | None, share: float
) -> None:
    with pytest.raises(SencacheError, match=rf"share is {share}; give one between 0 and 1"):
        train(Plan(family, tmp_path, 1.0, start=start, autoencoder=share))
    assert not list(tmp_path.iterdir())


def test_unknown_architectures_are_refused() -> None:
    with pytest.raises(SencacheError, match=r"'sora'; choose from wan, cogvideox, ltx"):
        family("sora")


def test_too_large_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"0" * (FILE_LIMIT + 1))
    with pytest.raises(SencacheError, match=r"weights has 10,000,001 bytes"):
        check_sizes(tmp_path)
    (tmp_path / "weights").write_bytes(b"0" * FILE_LIMIT)
    check_sizes(tmp_path)
    for part in range(2):
        (tmp_path / f"more{part}").write_bytes(b"0" * (MODEL_LIMIT // 3))
    with pytest.raises(SencacheError, match=f"a model {MODEL_LIMIT:,}"):
        check_sizes(tmp_path)
