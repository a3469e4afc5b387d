"""Training of the bundled models: it goes on after a kill, its tasks, its optimiser, its files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sencache.errors import SencacheError
from sencache.models.spec import ASSETS
from training import __main__ as program
from training import clips, loop, ltx, text, wan
from training.autoencoding import Autoencoding
from training.denoising import Denoising
from training.export import FILE_LIMIT, MODEL_LIMIT, check_sizes
from training.families import family
from training.latents import Latents, fingerprint, make, read
from training.optim import optimizers, orthogonal
from training.training import Plan, train

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
@pytest.mark.parametrize("kill", [31, 119])
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


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_an_orthogonal_update_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix, iterations=8))
    assert values.min() > 0.6 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    cosine = (orthogonal(matrix, iterations=8) * (left @ right)).sum() / (values.norm() * min(shape) ** 0.5)
    assert cosine > 0.95


# ---- tasks and files


def test_latents_are_made_once_and_read_back(tmp_path: Path) -> None:
    encoded: list[int] = []

    def encode(video: torch.Tensor) -> torch.Tensor:
        encoded.append(len(video))
        return video.mean(dim=(2, 3, 4))[:, :, None, None, None].float()

    first = make(tmp_path, 48, 0, encode, "one")
    sorted(tmp_path.glob("*.npz"))[1].unlink()
    again = make(tmp_path, 48, 0, encode, "one")
    assert encoded == [16] * 4 and len(again) == 48
    assert again.captions == first.captions and torch.equal(again.values, first.values)
    with pytest.raises(SencacheError, match="holds no latents"):
        read(tmp_path / "empty")


@pytest.mark.parametrize("change", ["seed", "encoder", "clips"])
def test_latents_that_something_else_made_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    def made(seed: int, encoder: str, scale: float) -> torch.Tensor:
        encode = lambda video: scale * video.mean(dim=(2, 3, 4))[:, :, None, None, None].float()  # noqa: E731
        return make(tmp_path, 32, seed, encode, encoder).values

    first = made(0, "one", 1.0)
    if change == "clips":
        monkeypatch.setitem(clips.PALETTE, "red", (1.0, 0.0, 0.0))
    again = made(int(change == "seed"), "two" if change == "encoder" else "one", 0.5)
    assert len(again) == 32 and not torch.equal(again, first)


def test_an_encoder_is_told_apart_by_weights_and_statistics() -> None:
    torch.manual_seed(0)
    module, names = wan.autoencoder(), set()
    for change in (
        lambda: None,
        lambda: module.register_to_config(latents_mean=[0.5] * 16),
        lambda: next(module.parameters()).data.mul_(1.001),
    ):
        change()
        names.add(fingerprint(module))
        assert fingerprint(module) in names
    assert len(names) == 3


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


# ---- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "/nonexistent"],
        ["train", "--out", "{}/out", "--from", "/nonexistent"],
        ["train", "--out", "{}/out", "--autoencoder-from", "/nonexistent"],
    ],
)
def test_a_folder_without_a_model_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["training", *(word.format(tmp_path) for word in arguments)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2 and list(tmp_path.iterdir()) == []
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("error: /nonexistent holds no exported model")


def test_unknown_architectures_are_refused_and_help_offers_no_shell_completion() -> None:
    with pytest.raises(SencacheError, match=r"'sora'; choose from wan, cogvideox, ltx"):
        family("sora")
    assert "--install-completion" not in CliRunner().invoke(program.app, ["--help"]).output
