"""The README's front matter is what the Hub reads to build the Space."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def front_matter() -> dict[str, object]:
    _, head, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return dict(yaml.safe_load(head))


def test_the_front_matter_is_complete_and_within_the_hubs_limits() -> None:
    space = front_matter()
    assert {"title", "emoji", "sdk", "models", "datasets", "tags", "license"} <= space.keys()
    assert space["sdk"] == "gradio" and (ROOT / str(space["app_file"])).is_file()
    assert {space["colorFrom"], space["colorTo"]} <= COLOURS
    assert len(str(space["short_description"])) <= 60
    # The Hub offers 3.10.13 as well, which pyproject.toml refuses.
    assert space["python_version"] == "3.12.12"
    for repo in (*space["models"], *space["datasets"]):  # type: ignore[misc]
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", repo)


def test_the_space_runs_the_gradio_that_is_pinned_and_tested() -> None:
    pinned = re.search(r"^gradio==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M)
    assert pinned and front_matter()["sdk_version"] == pinned[1] == version("gradio")
