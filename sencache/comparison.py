"""One comparison: lanes from one noise and one prompt encoding, as a stream of events ending in a report.

The command line, the app, the API and the bench all consume this stream; none of them has a loop of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sencache.budget import shortfalls
from sencache.devices import check_alike, share_out
from sencache.engine.run import Observer
from sencache.engine.sensors import rms
from sencache.engine.trace import Record
from sencache.interleave import Group, Stepwise, round_robin, side_by_side
from sencache.lanes import Finished, Frames, Stepped, lane
from sencache.metrics import compare_frames
from sencache.models.model import Model, check_request
from sencache.plan import FEWER_STEPS, REFERENCE, LaneSpec, Planned, plan_lanes, with_baselines, with_budget
from sencache.profile import Profile
from sencache.recording import Recorder, Recording
from sencache.report import Lane, ProfileRef, Report, write_report
from sencache.schema import Request
from sencache.versions import versions
from sencache.video import safe_name, write_mp4


@dataclass(frozen=True)
class Started:
    """The comparison begins; `lanes` in the order in which they are shown, the full run first."""

    lanes: tuple[str, ...]


@dataclass(frozen=True)
class LaneStarted:
    """A lane begins: its method, its settings, and how many steps it is going to take."""

    lane: str
    method: str
    config: dict[str, Any]
    steps: int


@dataclass(frozen=True)
class StepDone:
    """A lane has taken one step."""

    lane: str
    record: Record


@dataclass(frozen=True)
class LaneDone:
    """A lane has ended and was measured against the full run; `frames` are [T, H, W, 3] in 0..1."""

    lane: Lane
    frames: Frames


@dataclass(frozen=True)
class Compared:
    """The whole comparison, always the last event."""

    report: Report


Event = Started | LaneStarted | StepDone | LaneDone | Compared
Arrived = tuple[int, Stepped | Finished]


def compare(
    model: Model,
    request: Request,
    lanes: Sequence[LaneSpec],
    profile: Profile | Sequence[Profile] | None = None,
    copies: Sequence[Model] = (),
) -> Iterator[Event]:
    """Run `lanes` interleaved on `model`, with the constants in `profile` for the methods that need one; of
    several, in order of preference, each lane uses the first that serves its method.

    Without a budget the full run is one of the interleaved lanes and fewer-steps follows with as many steps
    as the SenCache lane computed. With `request.nfe` the full run goes first and is recorded: every other
    lane's knob is set on that record. Closing the iterator ends all lanes where they stand.

    `copies` are the same model loaded on further devices: the lanes are spread over all of them, each device
    advancing its own in a thread of its own. The events are those of one device, but for the order of the
    lanes among themselves. Raises SencacheError before anything runs when the request, a setting, a profile
    or a copy does not fit.
    """
    lanes = with_baselines(lanes)
    check_request(model.spec, request)
    check_alike([model.info(), *(other.info() for other in copies)])
    planned = plan_lanes(lanes, request, profile, model.spec.architecture)
    comparison = _Comparison((model, *copies), request)
    yield Started(tuple(spec.name for spec in lanes))
    if request.nfe is None:
        first = [p for p in planned if p.spec.method != FEWER_STEPS]
        yield from comparison.run(first)
        yield from comparison.run([comparison.as_fewer_steps(p, first) for p in planned if p not in first])
    else:
        recording = yield from comparison.recorded(planned)
        yield from comparison.run([with_budget(p, request.nfe, recording) for p in planned[1:]])
    yield Compared(comparison.report([spec.name for spec in lanes]))


def _on(device: torch.device, group: Group[Arrived]) -> Generator[Arrived, None, None]:
    """`group` in a thread of its own, whose current GPU is `device`."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    yield from group()


@dataclass
class _Comparison:
    """What the lanes of one comparison share, and what has come out so far."""

    models: tuple[Model, ...]
    request: Request
    done: dict[str, Lane] = field(default_factory=dict)
    reference_frames: Frames | None = None
    reference_latents: list[torch.Tensor] = field(default_factory=list)
    encoded: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        request = self.request
        prompt = self.models[0].encode(request.prompt, request.negative_prompt, request.guidance_scale)
        # One for each device, shared by its lanes, which keep what they make of a still in it.
        moved = [{name: value.to(m.device) for name, value in prompt.items()} for m in self.models[1:]]
        self.encoded = [prompt, *(type(prompt)(one) for one in moved)]

    def recorded(self, planned: Sequence[Planned]) -> Generator[Event, None, Recording]:
        """Run the first of `planned`, the full run, alone; returns what the policies of all look at."""
        policies = [p.policy for p in planned]
        signal = next((policy.signal for policy in policies if policy.signal), None)
        recorder = Recorder(signal, {one.target for one in policies if "forecast_error" in one.senses})
        for event in self.run(planned[:1], recorder):
            if isinstance(event, StepDone) and event.record.step == planned[0].steps - 1:
                recorder.recording()  # Frees its tensors, between the clocks and before the lane decodes.
            yield event
        return recorder.recording()

    def run(self, planned: Sequence[Planned], observer: Observer | None = None) -> Iterator[Event]:
        """Interleave `planned`; the full run must be among them or have been run before."""
        for p in planned:
            yield LaneStarted(p.spec.name, p.spec.method, p.policy.config(), p.steps)
        traces: list[list[Record]] = [[] for _ in planned]
        waiting: list[Arrived] = []
        with closing(self._items(planned, observer)) as items:
            for arrived in items:
                # The full run never waits, and may be what the others wait for.
                leads = planned[arrived[0]].spec.method == REFERENCE
                waiting = [arrived, *waiting] if leads else [*waiting, arrived]
                held: list[Arrived] = []
                for index, item in waiting:
                    if self._measurable(planned[index], item):
                        yield self._event(planned[index], traces[index], item)
                    else:
                        held.append((index, item))
                waiting = held

    def _items(self, planned: Sequence[Planned], observer: Observer | None) -> Generator[Arrived, None, None]:
        """What the lanes yield, with the lane's index, from all devices in the order in which it comes."""
        full = (REFERENCE, FEWER_STEPS)
        costs = [p.steps if p.spec.method in full else p.steps / 2 for p in planned]
        shares = share_out(costs, len(self.models))
        groups: list[Group[Arrived]] = [
            partial(self._group, place, [(index, planned[index]) for index in share], observer)
            for place, share in enumerate(shares)
            if share
        ]
        if len(groups) == 1:
            return groups[0]()
        return side_by_side([partial(_on, m.device, g) for m, g in zip(self.models, groups, strict=False)])

    def _group(
        self, place: int, members: Sequence[tuple[int, Planned]], observer: Observer | None
    ) -> Generator[Arrived, None, None]:
        """The lanes of one device in turn."""
        lanes = [self._lane(place, p, observer) for _, p in members]
        with closing(round_robin(lanes)) as items:
            for member, item in items:
                yield members[member][0], item

    def _lane(self, place: int, planned: Planned, observer: Observer | None) -> Stepwise[Stepped | Finished]:
        request = self.request.model_copy(update={"steps": planned.steps})
        model, encoded = self.models[place], self.encoded[place]
        return lane(
            model.pipe,
            planned.policy,
            lambda pipe, callback: model.generate(pipe, encoded, request, callback),
            model.device,
            observer,
        )

    def _measurable(self, planned: Planned, item: Stepped | Finished) -> bool:
        """Whether the full run has come as far: on another device it may be behind."""
        if planned.spec.method == REFERENCE:
            return True
        if isinstance(item, Finished):
            return self.reference_frames is not None
        return planned.spec.method == FEWER_STEPS or item.record.step < len(self.reference_latents)

    def _event(self, planned: Planned, trace: list[Record], item: Stepped | Finished) -> Event:
        if isinstance(item, Finished):
            return self._finish(planned, trace, item)
        trace.append(self._measured(planned, item))
        return StepDone(planned.spec.name, trace[-1])

    def _measured(self, planned: Planned, item: Stepped) -> Record:
        """The record with the drift from the full run; lanes on another schedule have none."""
        latents, step = self.reference_latents, item.record.step
        if planned.spec.method == REFERENCE:
            latents.append(item.latent)
        if planned.spec.method == FEWER_STEPS:
            return item.record
        # On the host and in float32: the same number whatever device and precision made the latents.
        apart = item.latent.float() - latents[step].float()
        return item.record.model_copy(update={"drift": float(rms(apart.flatten().unsqueeze(0)))})

    def _finish(self, planned: Planned, trace: list[Record], finished: Finished) -> LaneDone:
        is_reference = planned.spec.method == REFERENCE
        if is_reference:
            self.reference_frames = finished.frames
        assert self.reference_frames is not None
        denoise = sum(record.seconds or 0.0 for record in trace)
        full = denoise if is_reference else self.done[REFERENCE].denoise_seconds
        policy, caches = planned.policy, planned.policy.caches
        used: Profile | None = getattr(policy, "profile", None)
        elsewhere = used.elsewhere(self.models[0].spec.id) if used else []
        # Side by side a device goes on with its lanes, whose steps must not be timed with this beside them.
        at: torch.device | str = "cpu" if len(self.models) > 1 else self.models[0].device
        metrics = None if is_reference else compare_frames(finished.frames, self.reference_frames, device=at)
        lane = Lane(
            name=planned.spec.name,
            method=planned.spec.method,
            config=policy.config() if caches else {},
            target=policy.target if caches else None,
            forecast=policy.forecast if caches else None,
            profile=ProfileRef.of(used) if used else None,
            steps=planned.steps,
            nfe=finished.trace.nfe,
            cache_ratio=finished.trace.cache_ratio,
            transformer_calls=finished.trace.transformer_calls,
            denoise_seconds=denoise,
            decode_seconds=finished.decode_seconds,
            seconds=finished.setup_seconds + denoise + finished.decode_seconds,
            speedup=full / denoise,
            cache_bytes=finished.trace.cache_bytes,
            peak_bytes=finished.peak_bytes,
            notes=(*elsewhere, *finished.trace.notes, *shortfalls(policy, finished.trace, self.request.nfe)),
            trace=tuple(trace),
            metrics=metrics,
            video=None,
        )
        self.done[lane.name] = lane
        return LaneDone(lane, finished.frames)

    def as_fewer_steps(self, planned: Planned, run: Sequence[Planned]) -> Planned:
        """With the steps that the first SenCache lane of `run` computed, else a caching one, else half."""
        caching = [one for p in run if (one := self.done[p.spec.name]).target is not None]
        sencache = [lane for lane in caching if lane.method == "sencache"]
        chosen = next(iter(sencache or caching), None)
        steps = chosen.nfe if chosen else max(1, self.request.steps // 2)
        return Planned(planned.spec, planned.policy, steps)

    def report(self, order: Sequence[str]) -> Report:
        """The sealed report of all lanes, in `order`."""
        devices = ",".join(str(model.device) for model in self.models)
        return Report(
            model=self.models[0].info().model_copy(update={"device": devices}),
            request=self.request,
            versions=versions(),
            lanes=tuple(self.done[name] for name in order),
        ).sealed()


def save(report: Report, frames: dict[str, Frames], folder: Path, fps: int) -> Report:
    """Write every lane's video and the report that names them into `folder`; returns that report."""
    named = []
    for ended in report.lanes:
        video = f"{safe_name(ended.name)}.mp4"
        write_mp4(folder / video, frames[ended.name], fps)
        named.append(ended.model_copy(update={"video": video}))
    report = report.model_copy(update={"lanes": tuple(named)}).sealed()
    write_report(report, folder / "report.json")
    return report
