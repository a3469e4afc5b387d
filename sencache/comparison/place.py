"""One device of a comparison: its lanes advance in turn, and are measured in the same thread between turns.

So no step is timed beside anything else on the device.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain

import torch

from sencache.comparison.deadline import Deadline, Pace, stops, work_left
from sencache.comparison.events import Event, LaneDone, LaneStopped, StepDone
from sencache.comparison.lanes import Finished, Stepped, lane
from sencache.comparison.measuring import Reference, lane_of
from sencache.comparison.plan import REFERENCE, Planned
from sencache.comparison.stepping import POLL_SECONDS, Stepwise, round_robin
from sencache.engine.run import Observer
from sencache.models.model import Model
from sencache.schema import Request
from sencache.trace import StepRecord
from sencache.video import to_uint8


@dataclass
class UnderWay:
    """A lane: its call, the records of the steps taken, and what waits to be measured."""

    planned: Planned
    call: Stepwise[Stepped | Finished]
    records: list[StepRecord] = field(default_factory=list)
    measured: list[StepRecord] = field(default_factory=list)
    waiting: deque[Stepped | Finished] = field(default_factory=deque)
    going: bool = True

    def take(self, item: Stepped | Finished, pace: Pace) -> None:
        """What the call has just come to."""
        self.waiting.append(item)
        if isinstance(item, Stepped):
            self.records.append(item.record)
            pace.step(item.record)
        else:
            self.end()

    def end(self) -> None:
        """No further step; nothing of the call stays in memory, its frames included."""
        self.going = False
        self.call.close()


@dataclass
class Place:
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

    def run(
        self, planned: Sequence[Planned], observer: Observer | None
    ) -> Generator[Event | None, None, None]:
        """The events of the lanes `planned`; None while nothing happens, as the full run on another device
        is behind. `observer` watches the full run.
        """
        lanes = [UnderWay(p, self._call(p, observer)) for p in planned]
        yield from self._stopped(lanes)
        with closing(round_robin([one.call for one in lanes])) as items:
            for index, item in chain(items, self._pauses(lanes)):
                if item is None:
                    yield None
                else:
                    lanes[index].take(item, self.pace)
                # Frames in floats are large: no name but the lane's may hold them.
                del item
                for one in self._ready(lanes):
                    began = time.monotonic()
                    yield self._event(one)
                    self._pass(one, began)
                yield from self._stopped(lanes)

    def _call(self, planned: Planned, observer: Observer | None) -> Stepwise[Stepped | Finished]:
        request = self.request.model_copy(update={"steps": planned.steps})
        return lane(
            self.model.pipe,
            planned.policy,
            lambda pipe, callback: self.model.generate(pipe, self.encoded, request, callback),
            self.model.device,
            observer if planned.spec.method == REFERENCE else None,
        )

    def _pauses(self, lanes: Sequence[UnderWay]) -> Iterator[tuple[int, None]]:
        """Until the full run on another device is where these lanes are."""
        while any(one.waiting for one in lanes):
            time.sleep(POLL_SECONDS)
            yield 0, None

    def _ready(self, lanes: Sequence[UnderWay]) -> Iterator[UnderWay]:
        """The lanes whose next item can be measured by now, as often as that is so."""
        for one in lanes:
            while one.waiting and self.reference.serves(one.planned, one.waiting[0]):
                yield one

    def _event(self, one: UnderWay) -> Event:
        """What comes of its next item, measured."""
        item = one.waiting[0]
        if isinstance(item, Stepped):
            one.measured.append(self.reference.record(one.planned, item))
            return StepDone(one.planned.spec.name, one.measured[-1])
        done = lane_of(one.planned, one.measured, item, self.reference, self.request, self.model)
        return LaneDone(done, to_uint8(item.frames))

    def _pass(self, one: UnderWay, began: float) -> None:
        """Its next item has been told; if it is the full run's, others can be measured against it."""
        item = one.waiting.popleft()
        if one.planned.spec.method == REFERENCE:
            self.reference.follow(item, sum(record.seconds or 0.0 for record in one.measured))
        if isinstance(item, Finished):
            self.pace.end(item.decode_seconds + time.monotonic() - began)

    def _stopped(self, lanes: Sequence[UnderWay]) -> Iterator[Event]:
        """Lanes that end here, for the others to end in time."""
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
