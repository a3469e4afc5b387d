"""Calibration of a network that one can differentiate by hand."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from measuring import size

from sencache.architectures import ARCHITECTURES
from sencache.architectures.base import Architecture
from sencache.calibration.profiling import magnitude_ratios, sensitivity
from sencache.calibration.samples import probe
from sencache.errors import SencacheError


class ToyBlock(torch.nn.Module):
    """`f(x, t) = A x + a(t) x + b t d`: A scales every channel of every sample, d is a direction."""

    def __init__(self, toy: Toy) -> None:
        super().__init__()
        self.toy = toy

    def forward(self, x: torch.Tensor, t: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        t = t.view(-1, 1, 1)
        return scale * x + self.toy.drift * t / 1000 * x + self.toy.b * t * self.toy.direction


class ToyDenoiser(torch.nn.Module):
    """What the engine needs of a transformer, and no more."""

    def __init__(self, toy: Toy) -> None:
        super().__init__()
        self.config = SimpleNamespace(in_channels=toy.channels, out_channels=toy.channels)
        self.blocks = torch.nn.ModuleList([ToyBlock(toy)])

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, scale: torch.Tensor
    ) -> tuple[torch.Tensor]:
        """Latents [B, channels, width], timesteps [B], A [B, channels, 1]."""
        for block in self.blocks:
            hidden_states = block(hidden_states, timestep, scale)
        return (hidden_states,)


@dataclass
class Toy:
    """A pipeline around it that takes plain Euler steps, and the same in double precision without
    any of it.
    """

    a: tuple[float, ...] = (2.0, 2.0)
    uncond: tuple[float, ...] = (5.0, 5.0)
    drift: float = 0.0
    b: float = 0.0
    width: int = 6
    batch: int = 1
    guidance_scale: float = 1.0
    doubled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.start = torch.randn(self.batch, self.channels, self.width, generator=generator)
        self.direction = torch.ones(self.channels, self.width)
        self.transformer = ToyDenoiser(self)
        euler = lambda model_output, t, sample: (sample - 0.05 * model_output,)  # noqa: E731
        self.scheduler = SimpleNamespace(timesteps=torch.empty(0), step=euler)
        self.num_timesteps = 0

    @property
    def channels(self) -> int:
        return len(self.a)

    def scales(self, which: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(which).view(1, -1, 1).expand(self.batch, -1, -1)

    def __call__(self, steps: int = 6) -> torch.Tensor:
        """One generation."""
        self.scheduler.timesteps = torch.linspace(1000, 200, steps)
        self.num_timesteps = steps
        x = self.start.clone()
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.predict(x, t), t, x)[0]
        return x

    def predict(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        cond, uncond = self.scales(self.a), self.scales(self.uncond)
        if self.guidance_scale <= 1:
            return self.branch(x, t, cond)
        if self.doubled:
            halves = self.branch(torch.cat([x, x]), t, torch.cat([uncond, cond]))
            negative, positive = halves.chunk(2)
        else:
            positive, negative = self.branch(x, t, cond), self.branch(x, t, uncond)
        return negative + self.guidance_scale * (positive - negative)

    def branch(self, x: torch.Tensor, t: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.transformer(hidden_states=x, timestep=t.expand(len(x)), scale=scale)[0]


@pytest.fixture(autouse=True)
def _toys_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        ARCHITECTURES,
        "toy",
        Architecture("toy", ("ToyDenoiser",), ("blocks",), 1),
    )


@pytest.fixture
def _doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        ARCHITECTURES,
        "toy",
        Architecture("toy", ("ToyDenoiser",), ("blocks",), 1, doubles_batch=True),
    )


def close(values: Any) -> Any:
    return pytest.approx(list(values), rel=1e-4)


@pytest.mark.parametrize(("a", "b"), [(-1.5, -0.02), (1.0, 0.0)])
def test_a_linear_network_gives_back_its_coefficients(a: float, b: float) -> None:
    """f = a x + b t: alpha_x = |a| and alpha_t = |b| at every step but the last, which leads nowhere."""
    toy = Toy(a=(a, a, a), b=b)
    table = sensitivity([probe(toy, toy)])
    assert table.alpha_x == close([abs(a)] * 5)
    assert table.alpha_t == pytest.approx([abs(b)] * 5, rel=1e-3, abs=1e-8)
    assert table.alpha_x_std == table.alpha_t_std == (0.0,) * 5
    assert (table.samples, table.target) == (1, "output")


def trajectory(toy: Toy, steps: int = 6) -> tuple[list[torch.Tensor], list[float]]:
    """The unguided generation in double precision."""
    timesteps = torch.linspace(1000, 200, steps).tolist()
    x, states = toy.start.double(), []
    for t in timesteps:
        states.append(x)
        x = x - 0.05 * ((toy.scales(toy.a).double() + toy.drift * t / 1000) * x + toy.b * t)
    return states, timesteps


def test_in_a_network_that_stretches_channels_unevenly_the_direction_of_travel_counts() -> None:
    """alpha_x = |A dx| / |dx| along the trajectory, between the least and the largest stretch."""
    toy = Toy(a=(0.1, 1.0, 4.0), b=0.002)
    states, _ = trajectory(toy)
    stretch = toy.scales(toy.a).double()
    expected = [(size(stretch * (y - x)) / size(y - x)).item() for x, y in pairwise(states)]
    table = sensitivity([probe(toy, toy)])
    assert table.alpha_x == close(expected)
    assert table.alpha_t == close([0.002] * 5)
    assert 0.1 < min(expected) < max(expected) < 4.0 and max(expected) - min(expected) > 0.01


def test_x_moves_at_the_old_timestep_and_t_at_the_new_latent() -> None:
    """f = (a + c t/1000) x: alpha_x(t_k) = a + c t_k/1000, alpha_t(t_k) = c/1000 rms(x_{k+1})."""
    toy = Toy(a=(1.0, 1.0), drift=2.0)
    states, timesteps = trajectory(toy)
    table = sensitivity([probe(toy, toy)])
    assert table.alpha_x == close([1 + 2 * t / 1000 for t in timesteps[:-1]])
    assert table.alpha_t == close([2 / 1000 * size(x).item() for x in states[1:]])


def test_several_videos_at_once_are_refused() -> None:
    toy = Toy(a=(0.1, 4.0), batch=3)
    with pytest.raises(SencacheError, match="one video at a time can be recorded, not 3"):
        probe(toy, toy)


@pytest.mark.parametrize("target", ["output", "residual"])
def test_what_changes_is_the_output_or_the_residual(target: Any) -> None:
    """f = a x: the output changes by |a|, the residual, f - x, by |a - 1| of the latent's change."""
    toy = Toy(a=(3.0, 3.0), b=0.002)
    table = sensitivity([probe(toy, toy, target)], target)
    assert table.alpha_x == close([3.0 if target == "output" else 2.0] * 5)
    assert table.alpha_t == close([0.002] * 5)
    assert table.target == target


def test_samples_give_mean_and_spread() -> None:
    toys = [Toy(a=(0.1, 4.0), drift=1.0, seed=seed) for seed in range(3)]
    probes = [probe(toy, toy) for toy in toys]
    rows = torch.tensor([sensitivity([p]).alpha_x for p in probes], dtype=torch.float64)
    table = sensitivity(probes)
    assert table.samples == 3
    assert table.alpha_x == close(rows.mean(dim=0).tolist())
    assert table.alpha_x_std == pytest.approx(rows.std(dim=0, correction=0).tolist(), rel=1e-3)


@pytest.mark.parametrize("doubled", [False, True])
def test_only_the_prompts_own_branch_is_measured(doubled: bool, request: pytest.FixtureRequest) -> None:
    """With guidance, whether it comes as a second call or as the first half of the batch."""
    if doubled:
        request.getfixturevalue("_doubling")
    toy = Toy(a=(2.0, 2.0), uncond=(5.0, 5.0), b=0.01, guidance_scale=3.0, doubled=doubled)
    observed = probe(toy, toy)
    table = sensitivity([observed])
    assert table.alpha_x == close([2.0] * 5)
    assert table.alpha_t == close([0.01] * 5)
    assert observed.latent == toy.start.shape[1:]


def test_the_size_of_the_latent_does_not_matter() -> None:
    """Both alphas are per element: the same network on 100 times as many gives the same numbers."""
    small, large = Toy(a=(0.5, 2.0), b=0.01), Toy(a=(0.5, 2.0), b=0.01, width=600)
    large.start = small.start.repeat(1, 1, 100)
    one, other = (sensitivity([probe(toy, toy)]) for toy in (small, large))
    assert other.alpha_x == close(one.alpha_x)
    assert other.alpha_t == close(one.alpha_t)


def test_magnitude_ratios_by_hand() -> None:
    """Mean over tokens of |R_i| / |R_{i-1}|, here one token per channel, R = (a - 1) x."""
    toy = Toy(a=(1.5, 3.0), b=0.0)
    states, _ = trajectory(toy)
    residuals = [(toy.scales(toy.a).double() - 1) * x for x in states]
    expected = [(s.norm(dim=-1) / r.norm(dim=-1)).mean().item() for r, s in pairwise(residuals)]
    ratios = magnitude_ratios([probe(toy, toy)]).ratios
    assert ratios[0] == 1.0
    assert ratios[1:] == pytest.approx(expected, abs=1e-5)
