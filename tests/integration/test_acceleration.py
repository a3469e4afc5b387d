"""What people do to make a model fast or small: compile, offload, other attention, LoRA, half precision.

Compiling is counted with a backend that runs graphs as they are, so everything must come out bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from pipelines import STEPS, Tiny, on_gpu

from sencache.comparison.lanes import Finished, lane
from sencache.comparison.stepping import round_robin
from sencache.engine.attach import attach
from sencache.errors import SencacheError
from sencache.policies import Full, Policy
from sencache.trace import Trace

CPU = torch.device("cpu")
# CogVideoX's first block is compiled for text states laid out as the embedding left them, the others for
# those that a block returns.
GRAPHS = {"wan": 1, "cogvideox": 2, "ltx": 1}


def policies(name: str) -> dict[str, Policy]:
    """One of each kind: scored on the latent, on a signal, on the cache itself, and not at all."""
    lively = pipelines.lively(name)
    return {
        "sencache": lively["sencache"],
        "teacache": replace(lively["teacache"], target="output"),
        "control": replace(lively["control"], target="delta"),
        "none": Full(),
    }


def under(tiny: Tiny, policy: Policy | None, **changes: Any) -> tuple[torch.Tensor, Trace]:
    attached: AbstractContextManager[Trace] = attach(tiny.pipe, policy) if policy else nullcontext(Trace())
    with attached as trace:
        return tiny(**changes), trace


def in_lanes(tiny: Tiny, chosen: dict[str, Policy]) -> dict[str, Finished]:
    """All of them interleaved."""

    def generate(pipe: Any, callback: Any) -> np.ndarray[Any, Any]:
        return replace(tiny, pipe=pipe)(callback_on_step_end=callback).numpy()

    lanes = [lane(tiny.pipe, policy, generate, CPU) for policy in chosen.values()]
    return {list(chosen)[index]: item for index, item in round_robin(lanes) if isinstance(item, Finished)}


def assert_lanes_equal_attached(tiny: Tiny) -> None:
    """Each method interleaved with the others is as it is alone, and the plain pipeline is as it was."""
    chosen, plain = policies(tiny.name), tiny()
    done = in_lanes(tiny, chosen)
    for method, policy in chosen.items():
        latents, trace = under(tiny, policy)
        assert np.array_equal(done[method].frames, latents.numpy()), method
        assert done[method].trace.records == trace.records, method
    assert np.array_equal(done["none"].frames, plain.numpy())
    assert torch.equal(tiny(), plain)


# --- Compiled -------------------------------------------------------------------------------------


class Counting:
    """A torch.compile backend that runs every graph as it is, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def counting() -> Iterator[Counting]:
    torch._dynamo.reset()
    yield Counting()
    torch._dynamo.reset()


def compile_blocks(tiny: Tiny, **options: Any) -> None:
    """As `compile_repeated_blocks`, which CogVideoX does not have in this version of diffusers."""
    if tiny.name == "cogvideox":
        for block in tiny.blocks:
            block.compile(**options)
    else:
        tiny.pipe.transformer.compile_repeated_blocks(**options)


def test_compiled_blocks_make_one_graph_and_are_never_compiled_again(tiny: Tiny, counting: Counting) -> None:
    """Whole graphs, made in the first step of the first run; every method and lane uses the same ones."""
    expected = {method: under(tiny, policy) for method, policy in policies(tiny.name).items()}
    compile_blocks(tiny, backend=counting, fullgraph=True)
    per_step: list[int] = []
    for method, policy in policies(tiny.name).items():
        latents, trace = under(
            tiny, policy, callback_on_step_end=lambda *_: per_step.append(counting.graphs) or {}
        )
        assert torch.equal(latents, expected[method][0]), method
        assert trace.records == expected[method][1].records
        assert trace.transformer_calls == expected[method][1].transformer_calls
    assert per_step == [GRAPHS[tiny.name]] * STEPS * 4
    done = in_lanes(tiny, policies(tiny.name))
    for method, finished in done.items():
        assert np.array_equal(finished.frames, expected[method][0].numpy()), method
    assert counting.graphs == GRAPHS[tiny.name]


@pytest.mark.parametrize(("name", "method"), [("wan", "sencache"), ("ltx", "teacache")])
def test_a_whole_compiled_transformer_is_not_compiled_again_from_step_to_step(
    counting: Counting, name: str, method: str
) -> None:
    tiny = pipelines.ALL[name]()
    policy = policies(tiny.name)[method]
    expected, records = under(tiny, policy)
    tiny.pipe.transformer.compile(backend=counting)
    per_step: list[int] = []
    with attach(tiny.pipe, policy) as trace:
        for _ in range(2):
            latents = tiny(callback_on_step_end=lambda *_: per_step.append(counting.graphs) or {})
            assert torch.equal(latents, expected) and trace.records == records.records
    reused = next(record.step for record in trace if record.decision == "reuse")
    assert 0 < per_step[-1] == per_step[reused] <= 8


def test_traced_and_lowered_blocks_compute_the_same_with_and_without_an_engine(counting: Counting) -> None:
    """Through AOT autograd, whose arithmetic may differ from eager's in the last bit."""
    tiny = pipelines.wan()
    compile_blocks(tiny, backend="aot_eager", fullgraph=True)
    plain = tiny()
    for policy in (Full(), *pipelines.exact("wan").values()):
        assert torch.equal(under(tiny, policy)[0], plain)


# --- Attention backends ---------------------------------------------------------------------------


@pytest.fixture
def _backends_put_back() -> Iterator[None]:
    """What a model is set to becomes that of the whole process, rounding included."""
    before, _ = _AttentionBackendRegistry.get_active_backend()
    yield
    _AttentionBackendRegistry.set_active_backend(before)


@pytest.mark.usefixtures("_backends_put_back")
def test_another_attention_backend_before_or_after(tiny: Tiny) -> None:
    """What is set on the model holds for lanes made before it, and under an attachment made before it."""
    if not hasattr(tiny.pipe.transformer, "set_attention_backend"):
        pytest.skip("this transformer has no attention dispatcher in this version of diffusers")
    transformer, plain = tiny.pipe.transformer, {}
    for backend in ("native", "_native_math"):
        transformer.set_attention_backend(backend)
        plain[backend] = tiny()
        assert_lanes_equal_attached(tiny)
    with attach(tiny.pipe, Full()):
        for backend, latents in plain.items():
            transformer.set_attention_backend(backend)
            assert torch.equal(tiny(), latents)


# --- Group offloading -----------------------------------------------------------------------------


def offload(tiny: Tiny, kind: str, folder: Path) -> None:
    """To disk, so that on a CPU as well an offloaded weight is really gone: its memory holds anything."""
    apply_group_offloading(
        tiny.pipe.transformer,
        onload_device=CPU,
        offload_device=CPU,
        offload_type=kind,
        num_blocks_per_group=2 if kind == "block_level" else None,
        offload_to_disk_path=str(folder),
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [("wan", "block_level"), ("wan", "leaf_level"), ("cogvideox", "leaf_level"), ("ltx", "block_level")],
)
def test_offloaded_weights_are_there_for_every_lane(name: str, kind: str, tmp_path: Path) -> None:
    tiny = pipelines.ALL[name]()
    chosen = {m: p for m, p in policies(tiny.name).items() if (m, tiny.name) != ("teacache", "ltx")}
    expected = {method: under(tiny, policy) for method, policy in chosen.items()}
    offload(tiny, kind, tmp_path)
    for gone in tiny.pipe.transformer.parameters():
        gone.data.fill_(float("nan"))
    done = in_lanes(tiny, chosen)
    for method, (latents, trace) in expected.items():
        # Weights read from a file lie elsewhere in memory, and BLAS may round otherwise there.
        assert np.allclose(done[method].frames, latents.numpy(), rtol=1e-3, atol=1e-3), method
        assert str(done[method].trace) == str(trace)


def test_a_signal_from_weights_on_disk_is_refused(tmp_path: Path) -> None:
    tiny = pipelines.ltx()
    offload(tiny, "block_level", tmp_path)
    with pytest.raises(SencacheError, match=r"modulated_input.*offloaded to disk"):
        under(tiny, pipelines.lively("ltx")["teacache"])


# --- LoRA -----------------------------------------------------------------------------------------


class LowRank(torch.nn.Module):
    """What a LoRA loader puts in the place of a linear layer: the layer and a scaled update of low rank."""

    def __init__(self, base: torch.nn.Linear, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.base, self.scale = base, 1.0
        self.down = torch.nn.Parameter(torch.randn(2, base.in_features, generator=generator) / 8)
        self.up = torch.nn.Parameter(torch.randn(base.out_features, 2, generator=generator) / 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scale * (x @ self.down.T @ self.up.T)


def load_lora(transformer: torch.nn.Module) -> None:
    """In every attention projection, and in the layer that leads out of the transformer."""
    names = [n for n, m in transformer.named_modules() if isinstance(m, torch.nn.Linear) and "to_" in n]
    linear = [n for n in (*names, "proj_out") if isinstance(transformer.get_submodule(n), torch.nn.Linear)]
    for seed, name in enumerate(linear):
        transformer.set_submodule(name, LowRank(transformer.get_submodule(name), seed))


def test_lora_before_lanes_and_under_an_attachment(tiny: Tiny) -> None:
    chosen, bare = policies(tiny.name), tiny()
    with attach(tiny.pipe, Full()):
        assert torch.equal(tiny(), bare)
        load_lora(tiny.pipe.transformer)
        adapted = tiny()
    assert not torch.equal(adapted, bare)
    assert torch.equal(tiny(), adapted)
    assert_lanes_equal_attached(tiny)
    again = pipelines.ALL[tiny.name]()
    load_lora(again.pipe.transformer)
    for policy in chosen.values():
        assert torch.equal(under(again, policy)[0], under(tiny, policy)[0])


def scaling(transformer: torch.nn.Module) -> None:
    """Let forward take its scale from `attention_kwargs`, as diffusers does with peft: on all modules below
    it while it runs.
    """
    own = type(transformer)

    class Scaled(own):  # type: ignore[misc,valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            given = kwargs.pop("attention_kwargs", None) or {}
            layers = [module for module in self.modules() if isinstance(module, LowRank)]
            for layer in layers:
                layer.scale = given.get("scale", 1.0)
            try:
                return super().forward(*args, **kwargs)
            finally:
                for layer in layers:
                    layer.scale = 1.0

    transformer.__class__ = Scaled


def test_a_lora_scale_reaches_blocks_and_their_stand_in(tiny: Tiny) -> None:
    """Also with a child's stand-in, and with nothing left scaled or hidden afterwards."""
    load_lora(tiny.pipe.transformer)
    scaling(tiny.pipe.transformer)
    half: dict[str, Any] = {"attention_kwargs": {"scale": 0.5}}
    whole, scaled = tiny(), tiny(**half)
    assert not torch.equal(whole, scaled)
    for policy in (Full(), pipelines.exact(tiny.name)["teacache"]):
        assert torch.equal(under(tiny, policy, **half)[0], scaled)
        assert torch.equal(under(tiny, policy)[0], whole)
    keys = list(tiny.pipe.transformer.state_dict())
    assert keys == list(copy.deepcopy(tiny.pipe.transformer).state_dict())


@pytest.mark.skipif(
    find_spec("peft") is None, reason="peft, which diffusers loads LoRA with, is not installed"
)
def test_a_lora_adapter_of_peft(tiny: Tiny) -> None:
    from peft import LoraConfig

    tiny.pipe.transformer.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
    )
    half: dict[str, Any] = {"attention_kwargs": {"scale": 0.5}}
    scaled = tiny(**half)
    assert torch.equal(under(tiny, Full(), **half)[0], scaled)
    assert_lanes_equal_attached(tiny)


# --- Half precision -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.bfloat16) for name in pipelines.ALL), ("wan", torch.float16)]
)
def test_half_precision(name: str, dtype: torch.dtype, counting: Counting) -> None:
    """Nothing reused is bit for bit the plain pipeline; lanes are as attached; distances are finite, and not
    those of rounded latents where the sampler keeps float32.
    """
    tiny = on_gpu(pipelines.ALL[name](), dtype, "cpu")
    plain = tiny()
    assert torch.isfinite(plain.float()).all()
    for policy in pipelines.exact(tiny.name).values():
        assert torch.equal(under(tiny, policy)[0], plain)
    assert_halves_are_measured_unrounded(tiny, dtype)
    chosen = policies(tiny.name)
    done = {method: under(tiny, policy)[0] for method, policy in chosen.items()}
    compile_blocks(tiny, backend=counting, fullgraph=True)
    for method, policy in chosen.items():
        assert torch.equal(under(tiny, policy)[0], done[method])
    assert counting.graphs == GRAPHS[tiny.name]


def assert_halves_are_measured_unrounded(tiny: Tiny, dtype: torch.dtype) -> None:
    latents: list[torch.Tensor] = []
    keep: Callable[..., dict[str, Any]] = lambda *a: latents.append(a[3]["latents"].clone()) or {}  # noqa: E731
    with attach(tiny.pipe, pipelines.exact(tiny.name)["easycache"]) as trace:
        tiny(callback_on_step_end=keep)
    kept = latents[0].dtype
    assert kept == (dtype if tiny.name == "cogvideox" else torch.float32)
    changes = [record for record in trace if "input_change" in record.signals]
    assert len(changes) > STEPS // 2
    for record in changes:
        now, before = (latents[record.step - back] for back in (1, 2))
        expected = (now.float() - before.float()).abs().mean()
        assert record.signals["input_change"] == pytest.approx(float(expected), rel=5e-3)
