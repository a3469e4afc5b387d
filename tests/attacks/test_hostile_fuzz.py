"""Files changed at random: each is taken in, with all that holds of a profile, or refused with a code."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from documents import whole
from hostile_archives import J_T, J_X, SOUND, STEPS, TIMESTEPS, npy, packed
from hostile_profiles import SOUND as SOUND_PROFILE
from hypothesis import event, given, settings
from hypothesis import strategies as st

from sencache.errors import SencacheError
from sencache.hub.npz import parse_npz
from sencache.hub.official import Stated
from sencache.policies.loading import parse_profile
from sencache.profiles.profile import Profile

KINDS = ("profile", "json", "file")
WAN = Stated("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 5.0, (16, 21, 60, 104))


def often(count: int) -> settings:
    return settings(max_examples=count, deadline=None, database=None)


def holds(profile: Profile) -> None:
    """What everything that uses a profile relies on, stated anew."""
    steps, schedule = profile.schedule.steps, profile.schedule
    assert 1 <= steps <= 1000
    assert schedule.timesteps is None or len(schedule.timesteps) == steps
    assert all(a >= b for a, b in pairwise(schedule.timesteps or ()))
    if profile.sensitivity:
        assert schedule.timesteps is not None
        table = profile.sensitivity
        spreads = [column for column in (table.alpha_x_std, table.alpha_t_std) if column is not None]
        columns = [table.alpha_x, table.alpha_t, *spreads]
        assert len({len(column) for column in columns}) == 1 and len(table.alpha_x) in (steps, steps - 1)
        assert all(0 <= value < math.inf for column in columns for value in column)
        assert max(*table.alpha_x, *table.alpha_t) > 0
        for t in (1000.0, 500.5, 0.0, -1e9):
            assert profile.sensitivities().at(t) in set(zip(table.alpha_x, table.alpha_t, strict=True))
    if profile.magcache:
        assert all(0 < ratio < math.inf for ratio in profile.magcache.ratios)
        assert len(profile.magnitude_ratios(steps)) == steps and len(profile.magnitude_ratios(7)) == 7
    if profile.teacache:
        assert all(math.isfinite(profile.teacache.rescale(change)) for change in (0.0, 0.1, 1.0, 10.0))
    assert json.loads(profile.to_json(), parse_constant=lambda name: 1 / 0)
    again = parse_profile(profile.to_json())
    assert again == profile and again.sha256 == profile.sha256


def survives(read: Callable[[], Profile], *kinds: str) -> None:
    """It is read and holds, or is refused well with a code of one of the `kinds`; nothing else is raised."""
    try:
        profile, refusal = read(), None
    except SencacheError as error:
        profile, refusal = None, error
    event("read" if refusal is None else f"refused: {refusal.code}")
    if profile:
        holds(profile)
    if refusal:
        assert refusal.code and refusal.code.split(".")[0] in kinds, refusal
        assert str(refusal).isprintable() and ";" in str(refusal)


# ---- profiles: changed as data

WEIRD = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 1, 10**30, -(10**400), 2**63, 50, 1000, 0.0, -0.0, 1e-320, 1e308, 1e9, 0.5])
    | st.floats()
    | st.sampled_from(["", "wan", "NaN", "../x", "\x00", "\ud800", "x" * 3000, "time_embedding", "residual"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "steps", "../x", ""]), inner)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is anything; of long lists only the ends."""
    if isinstance(value, dict):
        inner: list[Any] = list(value.items())
    elif isinstance(value, list):
        inner = [(k, value[k]) for k in sorted({0, len(value) // 2, len(value) - 1}) if 0 <= k < len(value)]
    else:
        return [path]
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


PLACES = [place for place in places(whole()) if place]


@st.composite
def changed_data(draw: st.DrawFn) -> str:
    data = whole()
    for place in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3, unique=True)):
        alter(data, place, draw)
    return json.dumps(data, ensure_ascii=draw(st.booleans()))


def alter(data: Any, place: tuple[Any, ...], draw: st.DrawFn) -> None:
    *path, last = place
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return
    held = isinstance(data, dict) and last in data
    if not held and not (isinstance(data, list) and isinstance(last, int) and last < len(data)):
        return
    deed = draw(st.sampled_from(["replace", "delete", "repeat"]))
    if deed == "replace":
        data[last] = draw(WEIRD)
    elif deed == "delete":
        del data[last]
    elif isinstance(data, dict):
        name = draw(st.sampled_from(sorted(data)) | st.text(max_size=3))
        data[name] = data.pop(last)
    else:
        data.extend(copy.deepcopy(data[last]) for _ in range(draw(st.integers(1, 60))))


@given(changed_data())
@often(150)
def test_profiles_changed_as_data(content: str) -> None:
    survives(lambda: parse_profile(content), *KINDS)


# ---- profiles and archives: changed as bytes


@st.composite
def changed_bytes(draw: st.DrawFn, original: bytes, tokens: list[bytes]) -> bytes:
    """A few pieces replaced, cut out, put in or repeated."""
    content = original
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 0, 1, 2, 7, 40, 400])))
        piece = draw(st.sampled_from(tokens) | st.binary(max_size=4) | st.just(content[start:end] * 2))
        content = content[:start] + piece + content[end:]
    return content


JSON_TOKENS = b'NaN - 1e999 null " { } [ ] , : \\u0000 \x00 999999999999999999999999999999'.split()
ZIP_TOKENS = [
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    bytes(4),
    b"\xff" * 4,
    b"\xff\xff",
    b"|O",
    b"\x93NUMPY",
]


@given(changed_bytes(SOUND_PROFILE, JSON_TOKENS))
@often(150)
def test_profiles_changed_as_bytes(content: bytes) -> None:
    survives(lambda: parse_profile(content), *KINDS)


def imported(content: bytes) -> None:
    survives(lambda: parse_npz(content, "theirs.npz", WAN), "npz")


@given(changed_bytes(SOUND, ZIP_TOKENS))
@often(100)
def test_archives_changed_as_bytes(content: bytes) -> None:
    imported(content)


@given(changed_bytes(npy(J_X), [*ZIP_TOKENS, b"<f8", b"(50,)", b"(0,)", b"True", b"'", b"{", b"\n"]))
@often(100)
def test_arrays_changed_as_bytes(content: bytes) -> None:
    sound = {"timesteps.npy": npy(TIMESTEPS), "J_t_norm.npy": npy(J_T)}
    imported(packed({**sound, "J_x_norm.npy": content}))


NUMBERS = st.floats(width=32) | st.floats(0, 40, width=32)


@given(st.lists(NUMBERS, min_size=1, max_size=6), st.lists(NUMBERS, min_size=1, max_size=6))
@often(100)
def test_tables_of_any_numbers(x: list[float], t: list[float]) -> None:
    table = {
        "timesteps": np.linspace(999, 92, len(x)),
        "J_x_norm": np.array(x, np.float32),
        "J_t_norm": np.array(t, np.float32),
    }
    imported(packed({f"{name}.npy": npy(values) for name, values in table.items()}))


def test_what_the_fuzzing_starts_from_is_sound() -> None:
    holds(parse_profile(SOUND_PROFILE))
    assert parse_npz(SOUND, "mine.npz", WAN).schedule.steps == STEPS
