"""The README's front matter is what the Hub reads to build the Space."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def test_the_front_matter_is_complete_and_names_the_gradio_that_is_tested() -> None:
    _, head, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    space = yaml.safe_load(head)
    assert {"title", "emoji", "sdk", "models", "datasets", "tags", "license"} <= space.keys()
    assert space["sdk"] == "gradio" and (ROOT / str(space["app_file"])).is_file()
    assert {space["colorFrom"], space["colorTo"]} <= COLOURS
    assert len(str(space["short_description"])) <= 60
    # The Hub offers 3.10.13 as well, which pyproject.toml refuses.
    assert space["python_version"] == "3.12.12"
    for repo in (*space["models"], *space["datasets"]):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", repo)
    pinned = re.search(r"^gradio==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M)
    assert pinned and space["sdk_version"] == pinned[1] == version("gradio")
