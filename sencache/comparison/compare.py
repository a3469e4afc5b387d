"""One comparison: lanes from one noise and one prompt encoding, as a stream of events ending in a report.

The command line, the app, the API and the bench all consume this stream; none of them has a loop of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain

import torch

from sencache.calibration.recording import Recorder
from sencache.comparison.deadline import Deadline, Pace
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
from sencache.comparison.measuring import Reference
from sencache.comparison.place import Place
from sencache.comparison.plan import FEWER_STEPS, REFERENCE, LaneSpec, Planned, with_budget
from sencache.comparison.report import Report, Unfinished
from sencache.comparison.stepping import in_threads
from sencache.engine.run import Observer
from sencache.models.model import Model
from sencache.profiles.profile import Profile
from sencache.schema import Request
from sencache.versions import versions

__all__ = [
    "Compared",
    "Deadline",
    "Event",
    "LaneDone",
    "LaneStarted",
    "LaneStopped",
    "Started",
    "StepDone",
    "compare",
    "run_job",
]


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
            Place(model, own, request, reference, pace, deadline, self.later)
            for model, own in zip(models, encoded, strict=True)
        ]

    def empty_report(self) -> Report:
        """That of a comparison of which nothing is done yet."""
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
        """Follow one event."""
        self.ledger.take(event)
        if self.recorder and isinstance(event, StepDone):
            full = self.job.lanes[0]
            if (event.lane, event.record.step) == (full.spec.name, full.steps - 1):
                # Frees its tensors, between the clocks and before the lane decodes.
                self.recorder.recording()

    def rounds(self) -> Iterator[Sequence[Planned]]:
        """The lanes that run at once; each round is asked for when the one before it has ended."""
        return self._in_turn() if self.request.nfe is None else self._on_budget(self.request.nfe)

    def _in_turn(self) -> Iterator[Sequence[Planned]]:
        """All lanes at once, and then fewer-steps, if there is time."""
        lanes = self.job.lanes
        first = [p for p in lanes if p.spec.method != FEWER_STEPS]
        self.later += [self._as_fewer_steps(p, first) for p in lanes if p not in first]
        yield first
        follow = [self._as_fewer_steps(p, first) for p in self.later]
        self.later.clear()
        yield follow

    def _as_fewer_steps(self, planned: Planned, run: Sequence[Planned]) -> Planned:
        """`planned` with the steps that the first SenCache lane of `run` computed, else its first caching
        lane, else half of all.
        """
        done = (self.ledger.done.get(p.spec.name) for p in run)
        caching = [lane for lane in done if lane is not None and lane.target is not None]
        sencache = [lane for lane in caching if lane.method == "sencache"]
        chosen = next(iter(sencache or caching), None)
        steps = round(chosen.cost) if chosen else max(1, self.request.steps // 2)
        return Planned(planned.spec, planned.policy, steps)

    def _on_budget(self, nfe: int) -> Iterator[Sequence[Planned]]:
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
        return in_threads([partial(_opened, place, share, self.recorder) for place, share in groups])


def _recorder(job: Job) -> Recorder:
    """What watches the full run for what the policies of all lanes look at."""
    policies = [p.policy for p in job.lanes]
    signal = next((policy.signal for policy in policies if policy.signal), None)
    return Recorder(signal, {(sense, one.target) for one in policies for sense in one.senses})


@contextmanager
def _opened(
    place: Place, lanes: Sequence[Planned], observer: Observer | None
) -> Iterator[Iterator[Event | None]]:
    """The events of `lanes`, in a thread of their own whose current GPU is that of `place`."""
    if place.model.device.type == "cuda":
        torch.cuda.set_device(place.model.device)
    with closing(place.run(lanes, observer)) as events:
        yield events
