"""The engine's place on one transformer: two hooks, and stand-ins for the length of a forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sencache.engine.architectures import BlockSignal, ChildSignal, architecture_of
from sencache.engine.cache import History
from sencache.engine.compiled import closed, closed_to_itself
from sencache.engine.run import Run, Turn
from sencache.engine.sensors import Evaluated, Scene
from sencache.engine.session import Session
from sencache.engine.stack import BlockCall, Stack, Tap, run_blocks
from sencache.errors import SencacheError
from sencache.policies.targets import TARGETS, Target


@dataclass(slots=True)
class Call:
    """One forward of one transformer, from pre-hook to hook. `opens`: it is the first of its step."""

    run: Run
    turn: Turn
    history: History
    latent: torch.Tensor
    opens: bool
    signal: torch.Tensor | None = None
    scene: Scene | None = None
    residual: torch.Tensor | None = None
    tail: torch.Tensor | None = None
    first: BlockCall | None = None

    def forecast(self) -> torch.Tensor:
        """What is reused at this step."""
        return self.history.forecast(self.turn.step)

    def keep_residual(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """Note what the blocks added, and those behind the first where that one ran apart."""
        self.residual = after - before
        self.tail = None if self.first is None else after - self.first.hidden


class Mount:
    """Plays every forward of `module` as the session's policy decides."""

    def __init__(self, module: torch.nn.Module, session: Session) -> None:
        self.module, self.session = module, session
        self.architecture = architecture_of(module)
        config: Any = module.config
        self.channels = config.out_channels or config.in_channels
        self.blocks: Any = module._modules[self.architecture.blocks]
        self.signal = self._find_signal()
        self.stand_ins = self._make_stand_ins()
        self.originals = {name: module._modules[name] for name in self.stand_ins}
        self.context: tuple[str, int | None] | None = None
        self.call: Call | None = None
        self.rerunning: list[torch.Tensor] | None = None

    def _find_signal(self) -> BlockSignal | ChildSignal | None:
        observer, known = self.session.observer, self.architecture.signals
        wanted = self.session.policy.signal or (observer.signal if observer else None)
        if wanted is None:
            return None
        if wanted not in known:
            raise SencacheError(
                f"{self.architecture.name} has no signal {wanted!r} (it has {', '.join(known)}); "
                "choose a profile made for this architecture"
            )
        signal = known[wanted]
        if isinstance(signal, BlockSignal) and signal.weights and self._on_disk(self.blocks[0]):
            raise SencacheError(
                f"the signal {wanted!r} needs a block's weights, which are offloaded to disk; "
                "offload to memory, or use a method that looks at no signal"
            )
        return signal

    @staticmethod
    def _on_disk(block: Any) -> bool:
        registry = getattr(block, "_diffusers_hook", None)
        hook = registry.get_hook("group_offloading") if registry else None
        return hook is not None and hook.group.offload_to_disk_path is not None

    def _make_stand_ins(self) -> dict[str, torch.nn.Module]:
        stand_ins: dict[str, torch.nn.Module] = {
            self.architecture.blocks: torch.nn.ModuleList([Stack(self.play, self.blocks)])
        }
        if isinstance(self.signal, ChildSignal):
            child: Any = self.module._modules[self.signal.child]
            stand_ins[self.signal.child] = Tap(child, self.show)
        return stand_ins

    @contextmanager
    def cache_context(self, name: str, **fields: Any) -> Iterator[None]:
        """Remember the branch's name and step, and pass them on."""
        self.context = (name, fields.get("step_index"))
        own: Any = type(self.module)
        try:
            with own.cache_context(self.module, name, **fields):
                yield
        finally:
            self.context = None

    @closed
    def before(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook: find the place in the run, put the stand-ins in."""
        if self.rerunning is not None:
            return
        latent = self.architecture.latent(_hidden(args, kwargs), self.channels)
        run = self.session.current_run(self.architecture, latent)
        branch, index = self.context or (self._unnamed_branch(run), None)
        turn = run.enter(branch, index)
        self.call = Call(run, turn, self._history(run, branch), latent, opens=len(turn.branches) == 1)
        self.module._modules.update(self.stand_ins)

    def _history(self, run: Run, branch: str) -> History:
        return run.history(id(self.module), branch)

    def _unnamed_branch(self, run: Run) -> str:
        """Pipelines that give no context call the branches of a step in a fixed order."""
        expected = self._expected_branches()
        made = len(run.turn.branches) if run.turn else 0
        return expected[made % len(expected)]

    def _expected_branches(self) -> tuple[str, ...]:
        return self.architecture.branches if self.session.guided() else self.architecture.branches[:1]

    def restore(self) -> None:
        """Put the transformer's own children back."""
        self.module._modules.update(self.originals)

    def close(self) -> None:
        """Leave the transformer. Mount and stand-ins hold each other; without this only the
        collector would free them.
        """
        self.restore()
        self.stand_ins.clear()
        self.call = None

    def show(self, signal: torch.Tensor) -> None:
        """Called by the tap on the child that carries the signal."""
        assert self.call is not None
        self.call.signal = signal

    @closed_to_itself
    def play(self, block_call: BlockCall) -> Any:
        """In place of all blocks: decide if the step is new, then run them or reuse."""
        if self.rerunning is not None:
            done = run_blocks(self.blocks, self.architecture.text_stream, block_call)
            self.rerunning.append(done.hidden - block_call.hidden)
            return done.returned(self.architecture.text_stream)
        call = self.call
        assert call is not None
        if self._needs_first(call):
            call.first = run_blocks(list(self.blocks)[:1], self.architecture.text_stream, block_call)
        if call.opens:
            self._decide(call, block_call)
        if call.turn.reuse:
            return self._skipped(call, block_call)
        return self._computed(call, block_call)

    @closed_to_itself
    def _computed(self, call: Call, block_call: BlockCall) -> Any:
        rest, start = (self.blocks, block_call) if call.first is None else (list(self.blocks)[1:], call.first)
        done = run_blocks(rest, self.architecture.text_stream, start)
        if self.session.observer is not None or (self._target and self._target.inside):
            call.keep_residual(block_call.hidden, done.hidden)
        return done.returned(self.architecture.text_stream)

    def _needs_first(self, call: Call) -> bool:
        """Whether the first block runs before the others are decided on: where it runs in any case, and where
        someone looks at it.
        """
        if self._target is not None and self._target.first_block:
            return True
        senses, observed = self.session.policy.senses, self.session.observer is not None
        return call.opens and (observed or any(sense.first_block for sense in senses))

    @property
    def _target(self) -> Target | None:
        policy = self.session.policy
        return TARGETS[policy.target] if policy.caches else None

    @closed
    def _decide(self, call: Call, block_call: BlockCall) -> None:
        if isinstance(self.signal, BlockSignal):
            call.signal = self.signal.read(self.blocks[0], block_call)
        conditional = slice(len(call.latent) // 2, None) if self.session.doubled else slice(None)
        call.scene = Scene(call.turn.step, call.latent, conditional, id(self.module), call.signal)
        call.scene.latent = self.session.unrounded.of(call.scene.latent)
        call.scene.blocks = len(self.blocks)
        if call.first is not None:
            call.scene.head = call.first.hidden - block_call.hidden
        histories = [self._history(call.run, branch) for branch in self._expected_branches()]
        shape = self._cached_shape(call, block_call)
        call.run.decide(
            call.turn,
            call.scene,
            lambda: self._target is None or all(history.serves(shape) for history in histories),
        )

    def _cached_shape(self, call: Call, block_call: BlockCall) -> torch.Size:
        return block_call.hidden.shape if self._target and self._target.inside else call.latent.shape

    @closed
    def _skipped(self, call: Call, block_call: BlockCall) -> Any:
        if not call.history.serves(self._cached_shape(call, block_call)):
            raise SencacheError(
                f"step {call.turn.step.index} was to be reused, but nothing of its shape is kept for one of "
                f"the guidance branches {sorted(call.turn.branches)}; run this pipeline without a cache"
            )
        if self._target is not None and self._target.inside:
            start = call.first if call.first is not None and self._target.first_block else block_call
            block_call = start.moved(self._target.restore(start.hidden, call.forecast()))
        return block_call.returned(self.architecture.text_stream)

    @closed
    def after(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """Forward hook: take the stand-ins out, keep or replace the output; `out` is None when forward
        raised.
        """
        if self.rerunning is not None:
            return None
        self.restore()
        call, self.call = self.call, None
        if out is None or call is None:
            # A call that was refused before it began leaves the run as it is.
            if call is not None:
                self.session.drop()
            return None
        if call.turn.reuse:
            out = self._replaced(call, out)
        else:
            self._keep(call, out[0], args, kwargs)
        self._finish(call)
        return out

    def _replaced(self, call: Call, out: Any) -> Any:
        assert self._target is not None
        if self._target.inside:
            return out
        value = self._target.restore(call.latent, call.forecast())
        return (value,) if isinstance(out, tuple) else type(out)(sample=value)

    def _keep(self, call: Call, output: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run, scene, target = call.run, call.scene, self._target
        run.trace.transformer_calls += 1
        added = call.tail if target and target.first_block else call.residual
        value = target.keep(call.latent, added, output) if target else None
        if call.opens and scene is not None:
            scene.residual, scene.output = call.residual, output
            scene.history, scene.value = call.history, value
            scene.rerun = partial(self._rerun, call.turn.step.timestep, args, kwargs)
            run.computed(scene)
        if value is not None:
            call.history.put(call.turn.step, value)

    def _rerun(
        self,
        now: float,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timestep: float,
        latent: torch.Tensor | None = None,
    ) -> Evaluated:
        """The network at another timestep and, if given, another latent; all blocks, nothing recorded."""
        given = kwargs["timestep"]
        # Tokens that image conditioning holds at another timestep stay there.
        moved = torch.where(given == torch.as_tensor(now).to(given), timestep, given).to(given.dtype)
        hidden = _hidden(args, kwargs)
        if latent is not None:
            hidden = hidden.clone()
            self.architecture.latent(hidden, self.channels).copy_(_repeated(latent, len(hidden)))
        residuals: list[torch.Tensor] = []
        self.rerunning = residuals
        self.module._modules[self.architecture.blocks] = self.stand_ins[self.architecture.blocks]
        try:
            args, kwargs = _with_hidden(hidden, args, {**kwargs, "timestep": moved})
            output: torch.Tensor = self.module(*args, **kwargs)[0]
            return Evaluated(residuals[0], output)
        finally:
            self.rerunning = None
            self.restore()

    def _finish(self, call: Call) -> None:
        """After the last call of the last step the run is over: free its tensors before the
        pipeline decodes.
        """
        is_last = call.turn.step.index == len(call.run.schedule) - 1
        if is_last and len(call.turn.branches) >= len(self._expected_branches()):
            call.run.release()


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    hidden: torch.Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    return hidden


def _with_hidden(
    hidden: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "hidden_states" in kwargs:
        return args, {**kwargs, "hidden_states": hidden}
    return (hidden, *args[1:]), kwargs


def _repeated(latent: torch.Tensor, batch: int) -> torch.Tensor:
    # Guidance that doubles the batch sees the same latent twice.
    return torch.cat([latent] * (batch // len(latent)))
