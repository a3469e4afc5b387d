"""One comparison: lanes from one noise and one prompt encoding, as a stream of events ending in a report.

The command line, the app and the API all consume this stream; none of them has a loop of its own. On each
device the lanes advance in turn, and are measured in the same thread between turns, so that no step is timed
beside anything else there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

import torch

from sencache.calibration.recording import Recorder
from sencache.comparison.deadline import Deadline, Pace, stops, work_left
from sencache.comparison.devices import check_alike, share_out
from sencache.comparison.events import (
    Compared,
    Event,
    LaneDone,
    LaneStarted,
    LaneStopped,
    Ledger,
    Started,
    StepDone,
)
from sencache.comparison.job import Job, make_job
from sencache.comparison.lanes import Finished, Stepped, lane
from sencache.comparison.measuring import Reference, lane_entry
from sencache.comparison.plan import FEWER_STEPS, REFERENCE, LaneSpec, Planned, with_budget
from sencache.comparison.report import Report, Unfinished
from sencache.comparison.stepping import POLL_SECONDS, Stepwise, in_threads, round_robin
from sencache.engine.run import Observer
from sencache.models.model import Model
from sencache.profiles.profile import Profile
from sencache.schema import Request
from sencache.trace import StepRecord
from sencache.versions import versions
from sencache.video import to_uint8


def compare(
    model: Model,
    request: Request,
    lanes: Sequence[LaneSpec],
    profile: Profile | Sequence[Profile] | None = None,
    copies: Sequence[Model] = (),
    deadline: Deadline | None = None,
) -> Generator[Event, None, None]:
    """Run `lanes` interleaved on `model`, with the constants in `profile` for the methods that need one; of
    several, in order of preference, each lane uses the first that serves its method.

    `copies` are the same model loaded on further devices. Raises SencacheError before anything runs when the
    request, a setting or a profile does not fit; the rest is as `run_job` does it.
    """
    return run_job(make_job(model.spec, request, lanes, profile), (model, *copies), deadline)


def run_job(
    job: Job, models: Sequence[Model], deadline: Deadline | None = None
) -> Generator[Event, None, None]:
    """The lanes of `job` interleaved on its model, which is the same in all `models`, each on its own device.

    Without a budget the full run is one of the interleaved lanes and fewer-steps follows with as many steps
    as the SenCache lane computed. With `request.nfe` the full run goes first and is recorded: every other
    lane's knob is set on that record. Closing the iterator ends all lanes where they stand.

    The lanes are spread over all devices, each advancing its own in a thread of its own. The events are those
    of one device, but for the order of the lanes among themselves. By `deadline` as many lanes as fit have
    ended; the others are stopped, in the order that `deadline.py` states, and listed in the report. Raises
    SencacheError before anything runs when a model does not fit the first, and later when the full run has
    not the time.
    """
    check_alike([model.info() for model in models])
    comparison = _Comparison(job, models, deadline)
    begun: list[Event] = [Started(comparison.empty_report())]
    for lanes in comparison.rounds():
        begun += [LaneStarted(p.spec.name, p.spec.method, p.policy.config(), p.steps) for p in lanes]
        with closing(comparison.advance(lanes)) as events:
            for event in chain(begun, events):
                if event is not None:
                    comparison.take(event)
                    yield event
        begun = []
    yield Compared(comparison.ledger.report())


class _Comparison:
    """The lanes of one comparison: which run at once, and where; `ledger` follows what comes of them."""

    def __init__(self, job: Job, models: Sequence[Model], deadline: Deadline | None) -> None:
        self.job, self.request, self.ledger = job, job.request, Ledger()
        self.later, self.recorder = list[Planned](), None if job.request.nfe is None else _recorder(job)
        request = job.request
        prompt = models[0].encode(request.prompt, request.negative_prompt, request.guidance_scale)
        # One for each device, shared by its lanes, which keep what they make of a still in it.
        moved = [{name: value.to(m.device) for name, value in prompt.items()} for m in models[1:]]
        encoded = [prompt, *(type(prompt)(one) for one in moved)]
        reference, pace = Reference(), Pace(deadline.ending if deadline else 0.0)
        self.places = [
            _Place(model, own, request, reference, pace, deadline, self.later)
            for model, own in zip(models, encoded, strict=True)
        ]

    def empty_report(self) -> Report:
        devices = ",".join(str(place.model.device) for place in self.places)
        return Report(
            model=self.places[0].model.info().model_copy(update={"device": devices}),
            request=self.request,
            versions=versions(),
            lanes=(),
            unfinished=tuple(
                Unfinished(name=p.spec.name, method=p.spec.method, steps=p.steps) for p in self.job.lanes
            ),
        )

    def take(self, event: Event) -> None:
        self.ledger.take(event)
        if self.recorder and isinstance(event, StepDone):
            full = self.job.lanes[0]
            if (event.lane, event.record.step) == (full.spec.name, full.steps - 1):
                # Frees its tensors, between the clocks and before the lane decodes.
                self.recorder.recording()

    def rounds(self) -> Iterator[Sequence[Planned]]:
        """The lanes that run at once; each round is asked for when the one before it has ended."""
        if self.request.nfe is not None:
            yield from self._rounds_on_budget(self.request.nfe)
            return
        lanes = self.job.lanes
        first = [p for p in lanes if p.spec.method != FEWER_STEPS]
        self.later += [self._set_steps(p, first) for p in lanes if p not in first]
        yield first
        follow = [self._set_steps(p, first) for p in self.later]
        self.later.clear()
        yield follow

    def _set_steps(self, fewer: Planned, run: Sequence[Planned]) -> Planned:
        """Fewer-steps with the steps that the first SenCache lane of `run` computed, else its first caching
        lane, else half of all.
        """
        done = [self.ledger.done[p.spec.name] for p in run if p.spec.name in self.ledger.done]
        caching = [lane for lane in done if lane.target is not None]
        sencache = [lane for lane in caching if lane.method == "sencache"]
        chosen = next(iter(sencache or caching), None)
        return replace(fewer, steps=round(chosen.cost) if chosen else max(1, self.request.steps // 2))

    def _rounds_on_budget(self, nfe: int) -> Iterator[Sequence[Planned]]:
        """The full run, and then all others at once. Where there are further devices, fewer-steps is made
        meanwhile: its steps are known.
        """
        full, *others = self.job.lanes
        along = [p for p in others if p.spec.method == FEWER_STEPS and len(self.places) > 1]
        yield [full, *(with_budget(p, nfe) for p in along)]
        assert self.recorder is not None
        recording = self.recorder.recording()
        yield [with_budget(p, nfe, recording) for p in others if p not in along]

    def advance(self, lanes: Sequence[Planned]) -> Generator[Event | None, None, None]:
        """Interleave `lanes`, of which one is the full run or it has been run before; what comes of them, and
        None at times when nothing does.
        """
        baselines = (REFERENCE, FEWER_STEPS)
        costs = [p.steps if p.spec.method in baselines else p.steps / 2 for p in lanes]
        shares = zip(self.places, share_out(costs, len(self.places)), strict=True)
        groups = [(place, [lanes[index] for index in share]) for place, share in shares if share]
        if len(groups) == 1:
            ((place, share),) = groups
            return place.run(share, self.recorder)
        return in_threads([partial(place.run_in_thread, share, self.recorder) for place, share in groups])


def _recorder(job: Job) -> Recorder:
    """What watches the full run for what the policies of all lanes look at."""
    policies = [p.policy for p in job.lanes]
    signal = next((policy.signal for policy in policies if policy.signal), None)
    return Recorder(signal, {(sense, one.target) for one in policies for sense in one.senses})


@dataclass
class _LaneRun:
    """A lane under way: its call, the records of the steps taken, and what waits to be measured."""

    planned: Planned
    call: Stepwise[Stepped | Finished]
    records: list[StepRecord] = field(default_factory=list)
    measured: list[StepRecord] = field(default_factory=list)
    waiting: deque[Stepped | Finished] = field(default_factory=deque)
    going: bool = True

    def end(self) -> None:
        """No further step; nothing of the call stays in memory, its frames included."""
        self.going = False
        self.call.close()


@dataclass
class _Place:
    """A model on its device, the prompt's encoding there, and what all devices share: the full run, the pace,
    the deadline, and in `later` what is to be run when all lanes now under way have ended.
    """

    model: Model
    encoded: dict[str, torch.Tensor]
    request: Request
    reference: Reference
    pace: Pace
    deadline: Deadline | None
    later: list[Planned]

    @contextmanager
    def run_in_thread(
        self, planned: Sequence[Planned], observer: Observer | None
    ) -> Iterator[Iterator[Event | None]]:
        """As `run`, in a thread of its own whose current GPU is this one."""
        if self.model.device.type == "cuda":
            torch.cuda.set_device(self.model.device)
        with closing(self.run(planned, observer)) as events:
            yield events

    def run(
        self, planned: Sequence[Planned], observer: Observer | None
    ) -> Generator[Event | None, None, None]:
        """The events of the lanes `planned`; None while nothing happens, as the full run on another device
        is behind. `observer` watches the full run.
        """
        lanes = [_LaneRun(p, self._call(p, observer)) for p in planned]
        yield from self._stop_late(lanes)
        with closing(round_robin([one.call for one in lanes])) as items:
            for index, item in chain(items, self._pauses(lanes)):
                if item is None:
                    yield None
                else:
                    self._take(lanes[index], item)
                # Frames in floats are large: no name but the lane's may hold them.
                del item
                for one in lanes:
                    while one.waiting and self.reference.serves(one.planned, one.waiting[0]):
                        began = time.monotonic()
                        yield self._measure(one)
                        self._pass(one, began)
                yield from self._stop_late(lanes)

    def _call(self, planned: Planned, observer: Observer | None) -> Stepwise[Stepped | Finished]:
        request = self.request.model_copy(update={"steps": planned.steps})
        return lane(
            self.model.pipe,
            planned.policy,
            lambda pipe, callback: self.model.generate(pipe, self.encoded, request, callback),
            self.model.device,
            observer if planned.spec.method == REFERENCE else None,
        )

    def _pauses(self, lanes: Sequence[_LaneRun]) -> Iterator[tuple[int, None]]:
        """Until the full run on another device is where these lanes are."""
        while any(one.waiting for one in lanes):
            time.sleep(POLL_SECONDS)
            yield 0, None

    def _take(self, one: _LaneRun, item: Stepped | Finished) -> None:
        one.waiting.append(item)
        if isinstance(item, Stepped):
            one.records.append(item.record)
            self.pace.step(item.record)
        else:
            one.end()

    def _measure(self, one: _LaneRun) -> Event:
        """What comes of its next item."""
        item = one.waiting[0]
        if isinstance(item, Stepped):
            one.measured.append(self.reference.record(one.planned, item))
            return StepDone(one.planned.spec.name, one.measured[-1])
        done = lane_entry(one.planned, one.measured, item, self.reference, self.request, self.model)
        return LaneDone(done, to_uint8(item.frames))

    def _pass(self, one: _LaneRun, began: float) -> None:
        """Its next item has been told; if it is the full run's, others can be measured against it."""
        item = one.waiting.popleft()
        if one.planned.spec.method == REFERENCE:
            self.reference.follow(item, sum(record.seconds or 0.0 for record in one.measured))
        if isinstance(item, Finished):
            self.pace.end(item.decode_seconds + time.monotonic() - began)

    def _stop_late(self, lanes: Sequence[_LaneRun]) -> Iterator[Event]:
        """Stop lanes, for the others to end in time."""
        if self.deadline is None or not self.pace.known:
            return
        works = [work_left(one.planned, one.records, self.request.nfe) for one in lanes if one.going]
        works += [work_left(planned, (), self.request.nfe) for planned in self.later]
        for name, why in stops(works, self.pace, self.deadline.at - time.monotonic()):
            for one in lanes:
                if one.planned.spec.name == name:
                    one.end()
            self.later[:] = [planned for planned in self.later if planned.spec.name != name]
            yield LaneStopped(name, why)
