"""One comparison: lanes from one noise and one prompt encoding, as a stream of events ending in a report.

The command line, the app, the API and the bench all consume this stream; none of them has a loop of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial

import torch

from sencache.calibration.recording import Recorder, Recording
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
from sencache.comparison.measuring import Reference
from sencache.comparison.place import Place
from sencache.comparison.plan import (
    FEWER_STEPS,
    REFERENCE,
    LaneSpec,
    Planned,
    plan_lanes,
    with_baselines,
    with_budget,
)
from sencache.comparison.report import Report, Unfinished
from sencache.comparison.stepping import Group, side_by_side
from sencache.engine.run import Observer
from sencache.models.model import Model, check_request
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

    Without a budget the full run is one of the interleaved lanes and fewer-steps follows with as many steps
    as the SenCache lane computed. With `request.nfe` the full run goes first and is recorded: every other
    lane's knob is set on that record. Closing the iterator ends all lanes where they stand.

    `copies` are the same model loaded on further devices: the lanes are spread over all of them, each device
    advancing its own in a thread of its own. The events are those of one device, but for the order of the
    lanes among themselves. By `deadline` as many lanes as fit have ended; the others are stopped, in the
    order that `deadline.py` states, and listed in the report. Raises SencacheError before anything runs when
    the request, a setting, a profile or a copy does not fit, and later when the full run has not the time.
    """
    lanes = with_baselines(lanes)
    check_request(model.spec, request)
    check_alike([model.info(), *(other.info() for other in copies)])
    planned = plan_lanes(lanes, request, profile, model.spec.architecture)
    ledger = Ledger()
    for event in _Comparison((model, *copies), request, ledger, deadline).events(planned):
        ledger.take(event)
        yield event
    yield Compared(ledger.report())


def _on(device: torch.device, group: Group[Event | None]) -> Generator[Event | None, None, None]:
    """`group` in a thread of its own, whose current GPU is `device`."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    yield from group()


class _Comparison:
    """The lanes of one comparison: which run at once, and where."""

    def __init__(
        self, models: Sequence[Model], request: Request, ledger: Ledger, deadline: Deadline | None
    ) -> None:
        self.request, self.ledger, self.later = request, ledger, list[Planned]()
        prompt = models[0].encode(request.prompt, request.negative_prompt, request.guidance_scale)
        # One for each device, shared by its lanes, which keep what they make of a still in it.
        moved = [{name: value.to(m.device) for name, value in prompt.items()} for m in models[1:]]
        encoded = [prompt, *(type(prompt)(one) for one in moved)]
        reference, pace = Reference(), Pace(deadline.ending if deadline else 0.0)
        self.places = [
            Place(model, own, request, reference, pace, deadline, self.later)
            for model, own in zip(models, encoded, strict=True)
        ]

    def events(self, planned: Sequence[Planned]) -> Iterator[Event]:
        """All but the last."""
        yield Started(self._begun(planned))
        yield from self._in_turn(planned) if self.request.nfe is None else self._on_budget(planned)

    def _begun(self, planned: Sequence[Planned]) -> Report:
        devices = ",".join(str(place.model.device) for place in self.places)
        return Report(
            model=self.places[0].model.info().model_copy(update={"device": devices}),
            request=self.request,
            versions=versions(),
            lanes=(),
            unfinished=tuple(
                Unfinished(name=p.spec.name, method=p.spec.method, steps=p.steps) for p in planned
            ),
        )

    def _in_turn(self, planned: Sequence[Planned]) -> Iterator[Event]:
        """All lanes at once, and then fewer-steps, if there is time."""
        first = [p for p in planned if p.spec.method != FEWER_STEPS]
        self.later += [self._as_fewer_steps(p, first) for p in planned if p not in first]
        yield from self._run(first)
        follow = [self._as_fewer_steps(p, first) for p in self.later]
        self.later.clear()
        yield from self._run(follow)

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

    def _on_budget(self, planned: Sequence[Planned]) -> Iterator[Event]:
        """The full run, and then all others at once. Where there are further devices, fewer-steps is made
        meanwhile: its steps are known.
        """
        assert self.request.nfe is not None
        along = [p for p in planned if p.spec.method == FEWER_STEPS and len(self.places) > 1]
        first = [planned[0], *(with_budget(p, self.request.nfe) for p in along)]
        recording = yield from self._recorded(first, planned)
        rest = [p for p in planned[1:] if p not in along]
        yield from self._run([with_budget(p, self.request.nfe, recording) for p in rest])

    def _recorded(
        self, first: Sequence[Planned], planned: Sequence[Planned]
    ) -> Generator[Event, None, Recording]:
        """Run `first`, the full run among them; returns of it what the policies of all `planned` look at."""
        policies = [p.policy for p in planned]
        signal = next((policy.signal for policy in policies if policy.signal), None)
        recorder = Recorder(signal, {(sense, one.target) for one in policies for sense in one.senses})
        last = planned[0].spec.name, planned[0].steps - 1
        for event in self._run(first, recorder):
            if isinstance(event, StepDone) and (event.lane, event.record.step) == last:
                recorder.recording()  # Frees its tensors, between the clocks and before the lane decodes.
            yield event
        return recorder.recording()

    def _run(self, planned: Sequence[Planned], observer: Observer | None = None) -> Iterator[Event]:
        """Interleave `planned`; the full run must be among them or have been run before."""
        for p in planned:
            yield LaneStarted(p.spec.name, p.spec.method, p.policy.config(), p.steps)
        with closing(self._items(planned, observer)) as items:
            yield from (item for item in items if item is not None)

    def _items(
        self, planned: Sequence[Planned], observer: Observer | None
    ) -> Generator[Event | None, None, None]:
        """What the places tell, in the order in which it comes."""
        full = (REFERENCE, FEWER_STEPS)
        costs = [p.steps if p.spec.method in full else p.steps / 2 for p in planned]
        groups: list[tuple[torch.device, Group[Event | None]]] = [
            (place.model.device, partial(place.run, [planned[index] for index in share], observer))
            for place, share in zip(self.places, share_out(costs, len(self.places)), strict=True)
            if share
        ]
        if len(groups) == 1:
            return groups[0][1]()
        return side_by_side([partial(_on, device, group) for device, group in groups])
