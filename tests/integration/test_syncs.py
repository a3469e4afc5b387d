"""Values brought from the device to the host: one transfer per scored step, none anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pipelines
import pytest
import torch

from sencache import Control, EasyCache, Fixed, Full, MagCache, SenCache, TeaCache, attach
from sencache.policies import Policy
from sencache.profiles.profile import Profile

# Every way in which a tensor's value reaches Python; on a GPU each of them waits for the device.
TRANSFERS = (
    "tolist",
    "item",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "cpu",
    "numpy",
    "nonzero",
    "to",
    "__getitem__",
)

POLICIES: dict[str, Callable[[Profile], Policy]] = {
    "sencache": lambda profile: SenCache(profile, tolerance=0.3, max_reuses=2),
    "sencache-tight": lambda profile: SenCache(profile, tolerance=0),
    "magcache": lambda profile: MagCache(profile, threshold=0.1),
    "teacache": lambda profile: TeaCache(profile, threshold=0.05),
    "easycache": lambda profile: EasyCache(threshold=0.5, forced_first=3),
    "control": lambda profile: Control(tolerance=0.3, max_reuses=2),
    "control-output": lambda profile: Control(tolerance=0.3, target="output"),
    "fixed": lambda profile: Fixed(interval=3),
}


@pytest.fixture(scope="module")
def wan() -> pipelines.Tiny:
    return pipelines.wan()


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], int]:
    """Counts the transfers that a call makes."""
    made: list[str] = []

    def spy(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if _reaches_python(name, args, kwargs):
                made.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)

    for name in TRANSFERS:
        spy(name)

    def count(call: Callable[[], Any]) -> int:
        made.clear()
        call()
        return len(made)

    return count


def _reaches_python(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name == "to":
        # A device that is another tensor's is wherever the model is; one that is named is the host.
        return "cpu" in (*(a for a in args if isinstance(a, str)), kwargs.get("device"))
    if name == "__getitem__":
        # A tensor of one number is read to become a Python index, and a mask to know how much it picks.
        indices = args[0] if isinstance(args[0], tuple) else args
        return any(torch.is_tensor(i) and (i.dim() == 0 or i.dtype == torch.bool) for i in indices)
    return True


@pytest.mark.parametrize("name", POLICIES)
def test_one_transfer_per_scored_step_and_none_elsewhere(
    name: str, wan: pipelines.Tiny, bundled_profile: Profile, transfers: Callable[[Callable[[], Any]], int]
) -> None:
    policy = POLICIES[name](bundled_profile)
    baseline = transfers(lambda: _under(wan, Full()))
    traces: list[Any] = []
    made = transfers(lambda: traces.append(_under(wan, policy)))
    measured = [record for record in traces[0] if record.signals and policy.senses]
    assert made - baseline == len(measured)
    assert len(measured) < len(traces[0])
    assert bool(policy.senses) == bool(measured)


def test_an_attached_full_run_transfers_only_the_schedule(
    wan: pipelines.Tiny, transfers: Callable[[Callable[[], Any]], int]
) -> None:
    plain = transfers(wan)
    # Timesteps and sigmas, once a run.
    assert transfers(lambda: _under(wan, Full())) - plain == 2


def _under(tiny: pipelines.Tiny, policy: Policy) -> Any:
    with attach(tiny.pipe, policy) as trace:
        tiny()
    return trace
