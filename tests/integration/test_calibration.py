"""Calibration against networks whose sensitivities are known, against diffusers' own, and against
live runs.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pipelines
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from diffusers.hooks import MagCacheConfig
from pipelines import STEPS, Tiny

from sencache.calibration.profiling import CalibrationPlan, calibrate, magnitude_ratios, sensitivity
from sencache.calibration.samples import Sample, probe
from sencache.engine.architectures import ARCHITECTURES, Architecture
from sencache.engine.attach import attach
from sencache.engine.trace import Record, Trace
from sencache.errors import SencacheError
from sencache.models.model import Model
from sencache.policies import Fixed, Full
from sencache.recording import Recorder, Recording, simulate
from sencache.schema import Request

# --- A network that one can differentiate by hand -------------------------------------------------


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

    @contextmanager
    def cache_context(self, name: str, **fields: Any) -> Iterator[None]:
        """As in diffusers."""
        yield

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
        euler = lambda guess, t, x: (x - 0.05 * guess,)  # noqa: E731
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
            return self.branch("cond", x, t, cond)
        if self.doubled:
            halves = self.branch("cond_uncond", torch.cat([x, x]), t, torch.cat([uncond, cond]))
            negative, positive = halves.chunk(2)
        else:
            positive, negative = self.branch("cond", x, t, cond), self.branch("uncond", x, t, uncond)
        return negative + self.guidance_scale * (positive - negative)

    def branch(self, name: str, x: torch.Tensor, t: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        with self.transformer.cache_context(name):
            return self.transformer(hidden_states=x, timestep=t.expand(len(x)), scale=scale)[0]


@pytest.fixture(autouse=True)
def _toys_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        ARCHITECTURES,
        "ToyDenoiser",
        Architecture("toy", blocks="blocks", branches=("cond", "uncond"), channel_axis=1),
    )


@pytest.fixture
def _doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        ARCHITECTURES,
        "ToyDenoiser",
        Architecture("toy", blocks="blocks", branches=("cond_uncond",), channel_axis=1),
    )


def close(values: Any) -> Any:
    return pytest.approx(list(values), rel=1e-4)


@pytest.mark.parametrize(("a", "b"), [(2.0, 0.003), (-1.5, -0.02), (0.25, 1.0), (1.0, 0.0)])
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


def size(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).pow(2).mean(dim=1).sqrt()


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


# --- Real transformers ----------------------------------------------------------------------------

SETUPS: dict[str, Callable[[], Tiny]] = {
    "wan-unipc": pipelines.wan,
    "wan-euler": lambda: pipelines.wan(FlowMatchEulerDiscreteScheduler(shift=3.0)),
    "wan-image": pipelines.wan_image,
    "cogvideox-ddim": pipelines.cogvideox,
    "cogvideox-ddim-trailing": lambda: pipelines.cogvideox(
        CogVideoXDDIMScheduler(timestep_spacing="trailing")
    ),
    "cogvideox-dpm": lambda: pipelines.cogvideox(CogVideoXDPMScheduler(timestep_spacing="trailing")),
    "cogvideox-image": pipelines.cogvideox_image,
    "ltx": pipelines.ltx,
    "ltx-image": pipelines.ltx_image,
}


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1.0}], ids=str)
def test_calibrating_leaves_the_latents_alone(setup: str, changes: dict[str, Any]) -> None:
    tiny = SETUPS[setup]()
    made: list[torch.Tensor] = []
    observed = probe(tiny.pipe, lambda: made.append(tiny(**changes)))
    assert torch.equal(made[0], tiny(**changes))
    assert observed.alphas.shape == observed.magnitudes.shape == (STEPS - 1, 2)
    assert len(observed.recording.timesteps) == STEPS
    guided = not changes
    assert observed.evaluations == (STEPS * (tiny.branches if guided else 1), STEPS - 1)


@pytest.mark.parametrize("setup", SETUPS)
def test_the_extra_evaluation_is_the_network_at_new_latent_and_old_timestep(setup: str) -> None:
    """Made again from outside, with the very arguments that the pipeline gave.

    Tokens of an image stay at timestep 0; some schedules end at 0 altogether.
    """
    tiny = SETUPS[setup]()
    calls: list[dict[str, Any]] = []
    transformer = tiny.pipe.transformer
    handle = transformer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True
    )
    tiny()
    handle.remove()
    calls = calls[:: tiny.branches]
    own = slice(None) if tiny.branches == 2 else slice(1, None)
    alphas = probe(tiny.pipe, tiny).alphas
    channels = transformer.config.out_channels or transformer.config.in_channels
    axis = ARCHITECTURES[type(transformer).__name__].channel_axis

    def output(call: dict[str, Any], timestep: torch.Tensor) -> torch.Tensor:
        return transformer(**{**call, "timestep": timestep})[0][own]

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return size(a.double() - b.double()).item()

    with torch.no_grad():
        for k, (before, now) in enumerate(pairwise(calls)):
            old, new = before["timestep"], now["timestep"]
            latents = [call["hidden_states"].narrow(axis, 0, channels)[own] for call in (now, before)]
            crossed = output(now, old)
            along_x = distance(crossed, output(before, old)) / distance(*latents)
            along_t = distance(output(now, new), crossed) / (old.max() - new.max()).abs().item()
            assert alphas[k] == pytest.approx([along_x, along_t], rel=1e-3), k


def test_an_alpha_does_not_depend_on_the_resolution(tiny: Tiny) -> None:
    """Four times the elements, alphas alike; as L2 norms alpha_t would have doubled."""
    sizes = {
        "wan": ({"height": 32, "width": 32}, {"height": 64, "width": 64}),
        "cogvideox": ({"height": 32, "width": 32}, {"height": 64, "width": 64}),
        "ltx": ({"height": 128, "width": 128}, {"height": 256, "width": 256}),
    }[tiny.name]
    tables = [sensitivity([probe(tiny.pipe, lambda size=size: tiny(**size))]) for size in sizes]
    for name, tolerance in (("alpha_x", 0.15), ("alpha_t", 0.3)):
        small, large = (torch.tensor(getattr(table, name)).mean() for table in tables)
        assert (large / small).item() == pytest.approx(1, abs=tolerance), name


def test_a_scheduler_that_repeats_timesteps_cannot_be_calibrated() -> None:
    tiny = pipelines.wan(FlowMatchHeunDiscreteScheduler())
    with pytest.raises(SencacheError, match="distinct"):
        probe(tiny.pipe, tiny)


def test_one_step_is_too_few(tiny: Tiny) -> None:
    with pytest.raises(SencacheError, match="at least two steps"):
        probe(tiny.pipe, lambda: tiny(steps=1))


# --- MagCache's ratios, as diffusers measures them -------------------------------------------------


def printed_ratios(tiny: Tiny, capsys: pytest.CaptureFixture[str], **changes: Any) -> list[list[float]]:
    """One list per context, in the order of the calls."""
    tiny.pipe.transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=STEPS))
    capsys.readouterr()
    tiny(**changes)
    tiny.pipe.transformer.disable_cache()
    lines = capsys.readouterr().out.splitlines()
    return [ast.literal_eval(line) for line in lines if line.startswith("[1.0")]


@pytest.mark.parametrize("guided", [True, False])
def test_ratios_are_those_of_diffusers(tiny: Tiny, guided: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """On Wan those of the conditional calls.

    Where guidance doubles the batch diffusers averages both halves, and we take the prompt's: equal when both
    have the same prompt.
    """
    changes: dict[str, Any] = {} if guided else {"guidance_scale": 1.0}
    if guided and tiny.branches == 1:
        changes["negative_prompt_embeds"] = tiny.arguments(1)["prompt_embeds"]
    ours = magnitude_ratios([probe(tiny.pipe, lambda: tiny(**changes))]).ratios
    printed = printed_ratios(tiny, capsys, **changes)
    assert len(printed) == (tiny.branches if guided else 1)
    assert ours == pytest.approx(printed[0], abs=1e-5)
    assert max(ours) - min(ours) > 1e-3


def test_where_the_halves_differ_diffusers_averages_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Ours is the prompt's half; the mean of it and the other half is theirs."""
    tiny = pipelines.ltx()
    residuals: list[torch.Tensor] = []
    entered: list[torch.Tensor] = []
    first, last = tiny.blocks[0], tiny.blocks[-1]
    handles = [
        first.register_forward_pre_hook(
            lambda _, args, kwargs: entered.append(kwargs["hidden_states"]), with_kwargs=True
        ),
        last.register_forward_hook(lambda _, args, out: residuals.append(out - entered[-1])),
    ]
    tiny()
    for handle in handles:
        handle.remove()
    halves = [
        [(now[i].norm(dim=-1) / before[i].norm(dim=-1)).mean().item() for before, now in pairwise(residuals)]
        for i in range(2)
    ]
    ours = magnitude_ratios([probe(tiny.pipe, tiny)]).ratios
    theirs = printed_ratios(tiny, capsys)[0]
    assert ours[1:] == pytest.approx(halves[1], abs=1e-5)
    assert theirs[1:] == pytest.approx([(a + b) / 2 for a, b in zip(*halves, strict=True)], abs=1e-5)
    assert ours != pytest.approx(theirs, abs=1e-4)


# --- Recordings -----------------------------------------------------------------------------------

METHODS = ("fixed", "sencache", "magcache", "teacache", "easycache", "control")


def recorded(tiny: Tiny, **changes: Any) -> Recording:
    recorder = Recorder(pipelines.SIGNALS[tiny.name], ("residual", "output", "delta"))
    with attach(tiny.pipe, Full(), observer=recorder):
        tiny(**changes)
    return recorder.recording()


def alike(simulated: Trace, live: Trace, steps: int = STEPS) -> None:
    """The same decisions for the same reasons, on signals that agree to rounding."""

    def numbers(record: Record) -> dict[str, float]:
        return {**record.signals, **({} if record.score is None else {"score": record.score})}

    blank: dict[str, Any] = {"score": None, "signals": {}}
    for ours, theirs in zip(simulated.records[:steps], live.records[:steps], strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-3, abs=1e-7)
        assert ours.model_copy(update=blank) == theirs.model_copy(update=blank)


@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1.0}], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_simulation_that_reuses_nothing_is_the_live_run(
    tiny: Tiny, method: str, changes: dict[str, Any]
) -> None:
    """Every record, signals and scores included: tables of distances against the sensors of a live run."""
    recording = recorded(tiny, **changes)
    for target in ("residual",) if changes else ("residual", "output", "delta"):
        policy = replace(pipelines.exact(tiny.name)[method], target=target)
        with attach(tiny.pipe, policy) as trace:
            tiny(**changes)
        alike(simulate(policy, recording), trace)


@pytest.mark.parametrize("forecast", ["hold", "linear"])
@pytest.mark.parametrize("method", ["fixed", "magcache", "teacache"])
def test_a_simulation_of_what_reuse_cannot_change_is_the_live_run(
    tiny: Tiny, method: str, forecast: Any
) -> None:
    """These decide on the step, on calibrated ratios, or on t alone; on LTX TeaCache looks at the latent."""
    policy = replace(pipelines.lively(tiny.name)[method], forecast=forecast)
    with attach(tiny.pipe, policy) as trace:
        tiny()
    simulated = simulate(policy, recorded(tiny))
    assert 1 < trace.nfe < STEPS
    if (tiny.name, method) == ("ltx", "teacache"):
        assert [record.step for record in simulated] == [record.step for record in trace]
        assert simulated.records[1].score == pytest.approx(trace.records[1].score, rel=1e-5)
    else:
        alike(simulated, trace)


@pytest.mark.parametrize("method", METHODS)
def test_up_to_the_step_after_the_first_reuse_a_simulation_is_the_live_run(tiny: Tiny, method: str) -> None:
    """The latent that follows a reuse is the first that the recording does not have."""
    policy = pipelines.lively(tiny.name)[method]
    with attach(tiny.pipe, policy) as trace:
        tiny()
    simulated = simulate(policy, recorded(tiny))
    first = next(record.step for record in trace if record.decision == "reuse")
    alike(simulated, trace, first + 1)


def test_a_recording_is_of_the_prompts_own_sample(tiny: Tiny) -> None:
    """The latents that the pipeline's callback shows are those of the transformer's next call."""
    latents: list[torch.Tensor] = []
    keep = lambda _, index, t, tensors: latents.append(tensors["latents"].clone()) or {}  # noqa: E731
    recording = recorded(tiny, callback_on_step_end=keep)
    table = recording.latent_rms
    assert table.shape == (STEPS, STEPS) and (table.diagonal() == 0).all() and (table == table.T).all()
    for i, j in [(1, 2), (3, 9), (11, 4)]:
        expected = size(latents[i - 1].double() - latents[j - 1].double()).item()
        assert table[i, j] == pytest.approx(expected, rel=1e-4)
    assert recording.schedule.timesteps == tuple(tiny.pipe.scheduler.timesteps.tolist())


# --- The whole of it ------------------------------------------------------------------------------


def test_a_profile_of_the_bundled_model(tiny_wan: Model) -> None:
    """Two samples, few steps: what is in it was measured on the runs that it names."""
    request = Request(
        prompt="any", steps=6, height=64, width=64, frames=17, guidance_scale=4.0, seed=3, negative_prompt=""
    )
    prompts = ("a red circle moving right", "a blue square moving up")
    done: list[int] = []
    plan = CalibrationPlan(tiny_wan, request, prompts, samples=2)
    profile = calibrate(plan, on_step=lambda: done.append(1))
    assert len(done) == plan.steps == 2 * request.steps
    assert profile.calibration is not None
    assert profile.calibration.prompts == prompts and profile.calibration.seeds == (3, 4)
    assert profile.schedule.timesteps == tuple(tiny_wan.pipe.scheduler.timesteps.tolist())
    assert profile.shape is not None and profile.shape.latent == (16, 5, 8, 8)
    probes: list[Sample] = []
    for seed, prompt in enumerate(prompts, start=3):
        asked = request.model_copy(update={"prompt": prompt, "seed": seed})
        encoded = tiny_wan.encode(prompt, "", 4.0)
        call = lambda e=encoded, r=asked: tiny_wan.generate(tiny_wan.pipe, e, r, output_type="latent")  # noqa: E731
        probes.append(probe(tiny_wan.pipe, call))
    assert profile.sensitivity == sensitivity(probes)
    assert profile.magcache == magnitude_ratios(probes)
    assert profile.magnitude_ratios(6)[0] == 1.0
    assert profile.teacache_fit().signal == "time_projection"


def test_a_calibrated_profile_runs_live_as_it_was_simulated(tiny: Tiny) -> None:
    """The profile's own ratios, and a schedule that follows from them alone."""
    observed = probe(tiny.pipe, tiny)
    ratios = magnitude_ratios([observed])
    profile = pipelines.profile(tiny.name).model_copy(
        update={"magcache": ratios, "sensitivity": sensitivity([observed])}
    )
    policy = replace(pipelines.lively(tiny.name)["magcache"], profile=profile, threshold=0.3)
    with attach(tiny.pipe, policy) as trace:
        tiny()
    alike(simulate(policy, observed.recording), trace)
    assert trace.nfe < STEPS and simulate(Fixed(interval=2), observed.recording).nfe == STEPS // 2
