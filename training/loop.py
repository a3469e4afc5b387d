"""One training loop for everything: timed, seeded, and able to go on where it was killed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sencache.errors import SencacheError
from training.pictures import save_curves

WARMUP, FLOOR = 60, 0.01


class Task(Protocol):
    """What is trained: the loop asks for losses and nothing else."""

    name: str
    rate: float
    hold: float
    averaging: float
    optimizers: list[torch.optim.Optimizer]

    def parameters(self) -> dict[str, torch.nn.Parameter]: ...

    def loss(self, step: int, done: float) -> dict[str, torch.Tensor]:
        """Losses of one batch, a function of the seed, `step` and `done`, the share of the time that is over.

        The key `loss` is minimised.
        """
        ...

    def look(self, folder: Path) -> None:
        """Write pictures of what the (averaged) weights do by now."""
        ...


@dataclass
class Progressed:
    """Where a training stands; what a checkpoint holds besides tensors."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Loop:
    """Trains `task` for `minutes` of wall time in all, whatever number of sessions it takes.

    The learning rate rises over the first steps, stays until the share `task.hold` of the time and falls
    linearly; averaged weights are kept beside the trained ones. The state is written to
    `folder/<task>.pt` every `every` seconds; a loop made again on the same folder goes on from there.
    """

    def __init__(self, task: Task, folder: Path, minutes: float, every: float = 60.0) -> None:
        self.task, self.folder, self.minutes, self.every = task, folder, minutes, every
        self.parameters = task.parameters()
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.at = Progressed()
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._restore()

    @property
    def path(self) -> Path:
        return self.folder / f"{self.task.name}.pt"

    def run(self) -> None:
        """Train until the time is up, then leave the averaged weights in the task's modules."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}"),
        )
        with Progress(*columns, refresh_per_second=1) as progress:
            bar = progress.add_task(self.task.name, total=self.minutes * 60, said="")
            saved = self.at.seconds
            while self.at.seconds < self.minutes * 60:
                losses = self._timed_step()
                said = f"step {self.at.step} " + " ".join(f"{k} {v:.4f}" for k, v in losses.items())
                progress.update(bar, completed=self.at.seconds, said=said)
                if self.at.seconds - saved > self.every:
                    saved = self.at.seconds
                    self.save()
        self.save()
        self.use_average()

    def _timed_step(self) -> dict[str, float]:
        began = time.monotonic()
        losses = self._step()
        self.at.step += 1
        self.at.seconds += time.monotonic() - began
        self._note(losses)
        return self.at.history[-1] if self.at.history else losses

    def _step(self) -> dict[str, float]:
        for optimizer in self.task.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = self._rate()
        losses = self.task.loss(self.at.step, self._done)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for optimizer in self.task.optimizers:
            optimizer.step()
        self._follow()
        return {name: value.item() for name, value in losses.items()}

    @property
    def _done(self) -> float:
        return self.at.seconds / (self.minutes * 60)

    def _rate(self) -> float:
        done, hold = self._done, self.task.hold
        falling = 1.0 if done < hold else max(FLOOR, (1 - done) / (1 - hold))
        return self.task.rate * min(1.0, (self.at.step + 1) / WARMUP) * falling

    def _follow(self) -> None:
        decay = min(self.task.averaging, (1 + self.at.step) / (10 + self.at.step))
        averages = [self.average[name] for name in self.parameters]
        torch._foreach_lerp_(averages, [p.detach() for p in self.parameters.values()], 1 - decay)

    def _note(self, losses: dict[str, float]) -> None:
        """Running means, one history entry every 25 steps."""
        if not all(value == value for value in losses.values()):
            raise SencacheError(
                f"training of {self.task.name} diverged at step {self.at.step}; "
                f"delete {self.path} and start again with another seed"
            )
        if self.at.step % 25 == 1 or not self.at.history:
            self.at.history.append({"step": self.at.step, "seconds": self.at.seconds, **losses})
            return
        last, count = self.at.history[-1], (self.at.step - 1) % 25 + 1
        for name, value in losses.items():
            last[name] += (value - last[name]) / count

    def save(self) -> None:
        state: dict[str, Any] = {
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.task.optimizers],
            "at": vars(self.at),
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)
        (self.folder / f"{self.task.name}.json").write_text(json.dumps(self.at.history))
        save_curves(self.at.history, self.folder / f"{self.task.name}.svg")
        trained = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.use_average()
        self.task.look(self.folder)
        self._load(trained)

    def use_average(self) -> None:
        """Put the averaged weights into the modules."""
        self._load(self.average)

    @torch.no_grad()
    def _load(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def _restore(self) -> None:
        state = torch.load(self.path, weights_only=True)
        if state["parameters"].keys() != self.parameters.keys():
            raise SencacheError(
                f"{self.path} was written by a training of another model; give another folder or delete it"
            )
        self._load(state["parameters"])
        self.average = state["average"]
        for optimizer, saved in zip(self.task.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.at = Progressed(**state["at"])
