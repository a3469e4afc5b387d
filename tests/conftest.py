"""What tests share. Models are made on demand: a test that needs none pays for none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipelines import Tiny

    from sencache.models.model import Model
    from sencache.profiles.profile import Profile

# Read when torch is first imported. Tiny tensors, shared cores: idle threads must not spin for the next one.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read when the Hub's client is first imported, which talks to a server on this machine here.
os.environ.pop("HF_HUB_OFFLINE", None)
# An app that starts pulls no profile, unless a test says which.
os.environ["SENCACHE_PROFILES"] = ""

# Helpers that assert show what they compared, as tests do.
pytest.register_assert_rewrite("command_line", "hub_profiles", "lifecycle", "measuring")
pytest.register_assert_rewrite("npz_files", "profile_texts", "statements")


@pytest.fixture(params=["wan", "cogvideox", "ltx"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """A fresh tiny random pipeline of each architecture in turn."""
    import pipelines

    return pipelines.ALL[request.param]()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and two test runs at once would fight over the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bundled_profile() -> Profile:
    """The profile that comes with tiny-wan."""
    from sencache.policies.loading import load_profile
    from sencache.profiles.library import bundled_profile

    return load_profile(bundled_profile("tiny-wan.unipc-50"))


@pytest.fixture(scope="session")
def tiny_wan() -> Model:
    """The bundled trained model."""
    from sencache.models.model import load

    return load("tiny-wan")
