"""The report of one comparison: its schema, and the digest that shows whether anything in it was changed."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from sencache.errors import SencacheError
from sencache.files import atomic
from sencache.profiles.profile import Profile
from sencache.reading import read_limited
from sencache.schema import Metrics, ModelInfo, Request, Strict, first_problem
from sencache.trace import StepRecord

MAX_BYTES = 100_000_000
REPORT_NAME = "report.json"
UNDER_WAY = "it was still to be finished when this was written"


class ProfileRef(Strict):
    """The profile a lane used: a file's name or a Hub repository, and the hash of its content."""

    path: str | None = None
    repo: str | None = None
    revision: str | None = None
    sha256: str

    @classmethod
    def of(cls, profile: Profile) -> ProfileRef:
        """That of `profile`, which knows where it was read from."""
        return cls(path=profile.origin, repo=profile.repo, revision=profile.revision, sha256=profile.sha256)


class Lane(Strict):
    """One method's run.

    `denoise_seconds` is the sum of the steps' times, `decode_seconds` the rest of the call after the last
    step, `seconds` the whole call with the preparation before the first step. `speedup` compares denoising
    with the full run. `nfe` counts steps whose network ran, `transformer_calls` its evaluations with all
    guidance branches. `peak_bytes`, on GPUs only, is the most memory allocated on the lane's device during
    its turns, weights and the other lanes' caches included; it is left out elsewhere.
    """

    name: str
    method: str
    config: dict[str, Any]
    target: str | None
    forecast: str | None
    repair: str | None = Field(default=None, exclude_if=lambda value: value is None)
    profile: ProfileRef | None
    steps: int
    nfe: int
    cache_ratio: float
    transformer_calls: int
    denoise_seconds: float
    decode_seconds: float
    seconds: float
    speedup: float
    cache_bytes: int
    peak_bytes: int | None = Field(default=None, exclude_if=lambda value: value is None)
    notes: tuple[str, ...] = ()
    trace: tuple[StepRecord, ...]
    metrics: Metrics | None
    video: str | None

    @property
    def cost(self) -> float:
        """In evaluations: `nfe`, and the share of the blocks that reused steps ran."""
        return sum(record.share for record in self.trace)

    @property
    def evaluations(self) -> str:
        """`nfe`, with the cost where that differs."""
        return str(self.nfe) if self.cost == self.nfe else f"{self.nfe} (cost {self.cost:.1f})"


class Unfinished(Strict):
    """A lane that did not come to its end: the steps it took of those it was to take, and why in a sentence.

    Nothing else of it is kept.
    """

    name: str
    method: str
    taken: Annotated[int, Field(ge=0)] = 0
    steps: int
    why: str = UNDER_WAY

    def __str__(self) -> str:
        return f"{self.name} is missing, after {self.taken} of {self.steps} steps: {self.why}"


class Report(Strict):
    """One comparison; the JSON contract `sencache.report/1`.

    `unfinished` are the lanes that are missing; it is left out where none is. The full run never is.
    """

    schema_: Literal["sencache.report/1"] = Field(default="sencache.report/1", alias="schema")
    model: ModelInfo
    request: Request
    versions: dict[str, str]
    lanes: tuple[Lane, ...]
    unfinished: tuple[Unfinished, ...] = Field(default=(), exclude_if=lambda value: not value)
    digest: str = ""

    def seal(self) -> Report:
        """This report with the digest of its own content."""
        return self.model_copy(update={"digest": self.content_digest()})

    def content_digest(self) -> str:
        """sha256 of everything but the digest, as canonical JSON."""
        content = self.model_dump(mode="json", by_alias=True, exclude={"digest"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """Indented JSON with a trailing newline."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write `report` in one move; raises SencacheError when it cannot be, as on a full disk."""
    try:
        with atomic(path) as temporary:
            temporary.write_text(report.to_json(), encoding="utf-8")
    except OSError as error:
        raise SencacheError(
            f"the report {path} could not be written ({error.strerror}); check that its folder has space"
        ) from error


def load_report(path: str | os.PathLike[str]) -> Report:
    """Read a report; raises SencacheError when it is missing, too large or not of this schema."""
    try:
        return Report.model_validate_json(read_limited(path, "report", MAX_BYTES))
    except ValidationError as error:
        where, value, problem = first_problem(error)
        raise SencacheError(
            f"{path} is not a sencache.report/1: {where} is {value!r} ({problem}); make one with compare"
        ) from None
