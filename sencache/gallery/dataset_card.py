"""The page of a dataset repository that holds cards: which there are, and how an app shows them."""

from __future__ import annotations

from collections.abc import Mapping

from sencache.gallery.card import CardInfo
from sencache.hub.card import PROJECT, front_matter, table

MARK = "<!-- Written by `sencache gallery add`, which replaces it at the next card. -->"
ABOUT = (
    "Finished comparisons of step caches for video diffusion transformers: one video per method from one "
    f"noise, with the record of every step. Made, checked and shown by {PROJECT}."
)
USE = (
    "Show them in an app; `COMMIT` is the full hash of a commit here, so that nothing can change:\n\n"
    "```sh\nSENCACHE_GALLERY={repo}@COMMIT python app.py\n```\n\n"
    "Recompute every decision and look through every video:\n\n"
    "```sh\npython -m sencache gallery check {repo}@COMMIT\n```"
)
LIMITS = (
    "The distances in a report were measured on the frames as they were generated. Where a card says crf, "
    "its videos were encoded again, smaller, all lanes alike: they show less than what was measured. Each "
    "card is one prompt and one seed, which says nothing of the average."
)


def gallery_page(repo: str, cards: Mapping[str, CardInfo]) -> str:
    """README.md of the dataset `repo` that holds `cards` by name, with its YAML front matter."""
    title = f"Step caching compared: {len(cards)} recorded video comparison{'s' if len(cards) > 1 else ''}"
    rows = [(name, info.title[:200], info.videos, info.source) for name, info in sorted(cards.items())]
    parts = (
        front_matter(title, {}),
        f"{MARK}\n\n# {title}\n\n{ABOUT}",
        table(("card", "prompt", "videos", "made by"), rows),
        USE.format(repo=repo),
        f"## Limits\n\n{LIMITS}\n",
    )
    return "\n\n".join(parts)
