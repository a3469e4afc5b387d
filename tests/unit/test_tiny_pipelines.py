"""Training sees what the pipelines see: noise, attention, codecs and words."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, FlowMatchEulerDiscreteScheduler

from training import cogvideox, ltx, text, wan
from training.clips import sample_clip
from training.families import FAMILIES
from training.noise import Flow, Velocity

ALL = pytest.mark.parametrize("module", FAMILIES.values(), ids=FAMILIES)


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
    rng = np.random.default_rng(0)
    ids = words([sample_clip(rng).caption for _ in range(500)]).input_ids
    assert max(map(len, ids)) <= text.LENGTH
    assert words.unk_token_id not in {token for row in ids for token in row}
