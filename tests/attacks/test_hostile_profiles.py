"""Every hostile profile is refused: with the code of its fault, in one printable line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostile_profiles import CASES, GROUPS, SOUND

from sencache.errors import SencacheError
from sencache.policies.loading import load_profile


def test_the_cases_are_many_and_no_two_are_one() -> None:
    assert len(CASES) == sum(len(list(group())) for group in GROUPS) >= 200
    assert len({content for content, _ in CASES.values()}) > len(CASES) - 10


def test_what_they_were_made_from_is_taken_in(nothing_stays: Path) -> None:
    path = nothing_stays / "mine.json"
    path.write_bytes(SOUND)
    assert load_profile(path).schedule.steps == 50


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name: str, nothing_stays: Path) -> None:
    content, code = CASES[name]
    path = nothing_stays / "theirs.json"
    path.write_bytes(content)
    with pytest.raises(SencacheError) as caught:
        load_profile(path)
    message = str(caught.value)
    assert caught.value.code == code, message
    assert message.isprintable() and len(message) < 1000 and ";" in message
    assert os.listdir(nothing_stays) == ["theirs.json"] and path.read_bytes() == content
