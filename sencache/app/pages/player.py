"""The synced player: all lanes' videos on one clock, frame by frame, with three ways to compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, GradioModel
from pydantic import Field

from sencache.app.pages.parts import script, template
from sencache.app.palette import lane_label
from sencache.comparison.report import Lane, Report
from sencache.schema import PerFrame


class Clip(GradioModel):
    """One lane's video and its values per frame; both lists are empty where nothing was measured.

    `psnr` (dB) is None where a frame is identical to the full run's. `reference` marks the full run, `focus`
    the lane that is held against it first.
    """

    name: str
    note: str
    method: str
    video: FileData
    reference: bool = False
    focus: bool = False
    lpips: list[float] = Field(default_factory=list)
    psnr: list[float | None] = Field(default_factory=list)


class Clips(GradioModel):
    """Videos of equal length; `width` and `height` are those of the generated frames, in pixels."""

    frames: int = 1
    width: int = 1
    height: int = 1
    clips: list[Clip] = Field(default_factory=list)


class SyncPlayer(gr.HTML):
    data_model = Clips

    def __init__(self, value: Clips | None = None, **options: Any) -> None:
        super().__init__(
            value=value or Clips(),
            html_template=template("player"),
            js_on_load=script("strip", "player"),
            **options,
        )

    def api_info(self) -> dict[str, Any]:
        return Clips.model_json_schema()


def clips_of(report: Report, folder: Path) -> Clips:
    """The videos of `report`, whose files lie in `folder`; lanes without a video are left out."""
    request = report.request
    return Clips(
        frames=request.frames,
        width=request.width,
        height=request.height,
        clips=[_clip(lane, folder / lane.video) for lane in report.lanes if lane.video],
    )


def _clip(lane: Lane, video: Path) -> Clip:
    per_frame = lane.metrics.per_frame if lane.metrics else PerFrame(lpips=[], psnr=[], ssim=[])
    return Clip(
        name=lane_label(lane.name),
        note=f"{lane.nfe} of {lane.steps} steps · {lane.speedup:.2f}×",
        method=lane.method,
        video=FileData(path=str(video)),
        reference=lane.method == "none",
        focus=lane.method == "sencache",
        lpips=[round(value, 6) for value in per_frame["lpips"]],
        psnr=[None if value is None else round(value, 3) for value in per_frame["psnr"]],
    )
