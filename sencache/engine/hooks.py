"""The engine's place on one transformer: two hooks, and stand-ins for the length of a forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch

from sencache.architectures import architecture_of, outside_of
from sencache.architectures.base import BlockCall, BlockSignal, ChildSignal
from sencache.engine.attachment import Attachment
from sencache.engine.run import Run
from sencache.engine.stack import Stack, Tap, run_blocks
from sencache.engine.step import Evaluated, StepState
from sencache.errors import SencacheError
from sencache.policies.targets import TARGETS, Target

Function = TypeVar("Function", bound=Callable[..., Any])


def closed(function: Function) -> Function:
    """Neither `function` nor what it calls is traced by torch.compile.

    The bookkeeping changes its state at every call: traced, it would be compiled anew from step to step until
    the compiler's limit. The blocks, which are the same at every step, stay open.
    """
    return cast(Function, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


def closed_to_itself(function: Function) -> Function:
    """`function` is not traced; the modules that it calls are."""
    return cast(Function, torch.compiler.disable(function, recursive=False))  # type: ignore[no-untyped-call]


class TransformerHooks:
    """Plays every forward of `module` as the attachment's policy decides."""

    def __init__(self, module: torch.nn.Module, attachment: Attachment) -> None:
        self.module, self.attachment = module, attachment
        policy = attachment.policy
        self.target: Target | None = TARGETS[policy.target] if policy.caches else None
        self.looks_inside = attachment.observer is not None or policy.looks_inside
        self.architecture = architecture_of(module) if self.looks_inside else outside_of(module)
        config: Any = module.config
        self.channels = getattr(config, "out_channels", None) or getattr(config, "in_channels", None)
        self.placeholder: Callable[[], Any] | None = None
        self.originals: dict[str, torch.nn.Module | None] = {}
        self.stand_ins: dict[str, torch.nn.Module] = {}
        self.signal = self._find_signal()
        self.state: StepState | None = None
        self.rerunning: list[torch.Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformerHooks:
        # A copied transformer has the hooks on it, and they know that it is not theirs.
        return self

    @contextmanager
    def install(self) -> Iterator[None]:
        """The hooks are on the transformer inside the `with` block."""
        for hook in self.module._forward_pre_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, TransformerHooks) and other.module is self.module:
                raise SencacheError(
                    "a policy is attached to this transformer already; leave its with block first"
                )
        self._refuse_other_cache()
        handles = (
            self.module.register_forward_pre_hook(self.before, with_kwargs=True),
            self.module.register_forward_hook(self.after, with_kwargs=True, always_call=True),
        )
        own = {name: self.module.__dict__[name] for name in ("forward",) if name in self.module.__dict__}
        if not self.looks_inside:
            self.module.__dict__["forward"] = partial(self.run_or_not, self.module.forward)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            if not self.looks_inside:
                del self.module.__dict__["forward"]
                self.module.__dict__.update(own)
            self._restore()
            # Hooks and stand-ins hold each other; without this only the collector would free them.
            self.stand_ins.clear()
            self.state = None

    def _refuse_other_cache(self) -> None:
        if getattr(self.module, "is_cache_enabled", False):
            raise SencacheError(
                "diffusers' own cache is enabled on this transformer; call its disable_cache() first"
            )

    @property
    def blocks(self) -> list[Any]:
        """The transformer's own blocks, those of all lists in turn, also during a forward."""
        now = {**self.module._modules, **self.originals}
        return [block for name in self.architecture.blocks for block in cast(Any, now[name])]

    def _find_signal(self) -> BlockSignal | ChildSignal | None:
        observer, known = self.attachment.observer, self.architecture.signals
        wanted = self.attachment.policy.signal or (observer.signal if observer else None)
        if wanted is None:
            return None
        if wanted not in known:
            raise SencacheError(
                f"{self.architecture.name} has no signal {wanted!r} (it has {', '.join(known)}); "
                "choose a profile made for this architecture"
            )
        signal = known[wanted]
        if isinstance(signal, BlockSignal) and signal.weights and _on_disk(self.blocks[0]):
            raise SencacheError(
                f"the signal {wanted!r} needs a block's weights, which are offloaded to disk; "
                "offload to memory, or use a method that looks at no signal"
            )
        return signal

    def _put_in(self) -> None:
        """Replace the block lists, and the child that carries the signal, for one forward. Stand-ins last
        until what they stand for is replaced: to a compiler each one is another model.
        """
        names = [*self.architecture.blocks]
        if isinstance(self.signal, ChildSignal):
            names.append(self.signal.child)
        modules = self.module._modules
        now = {name: modules[name] for name in names}
        if any(now[name] is not self.originals.get(name) for name in names):
            self.originals = now
            self.stand_ins = {name: self._stand_in(name, now) for name in names}
        modules.update(self.stand_ins)

    def _stand_in(self, name: str, now: dict[str, Any]) -> torch.nn.Module:
        first, *rest = self.architecture.blocks
        if name == first:
            return torch.nn.ModuleList([Stack(self.play, [now[each] for each in (first, *rest)])])
        # The first one's stand-in plays all lists.
        return torch.nn.ModuleList() if name in rest else Tap(now[name], self.show)

    def _restore(self) -> None:
        modules = self.module._modules
        for name, stand_in in self.stand_ins.items():
            # What was replaced after the last forward stays so.
            if modules[name] is stand_in:
                modules[name] = self.originals[name]

    @closed
    def before(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook: find the place in the run, put the stand-ins in."""
        if module is not self.module or self.rerunning is not None:
            return
        self._refuse_other_cache()
        latent, timestep = (self._argument(name, args, kwargs) for name in ("hidden_states", "timestep"))
        latent = self.architecture.latent(latent, self.channels)
        run = self.attachment.current_run(self.architecture, latent, timestep)
        step, branch = run.enter(self.attachment.scheduler.current(timestep), id(module))
        conditional = slice(len(latent) // 2, None) if self.attachment.doubled else slice(None)
        self.state = StepState(step, latent, conditional, id(module), branch=branch)
        self.state.history = run.history(id(module), branch)
        if self.looks_inside:
            self._put_in()

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        if name not in kwargs:
            kwargs = inspect.signature(type(self.module).forward).bind(self.module, *args, **kwargs).arguments
        if not torch.is_tensor(kwargs.get(name)):
            raise SencacheError(
                f"a {type(self.module).__name__} takes no {name}; run this pipeline without a cache"
            )
        return cast(torch.Tensor, kwargs[name])

    @closed_to_itself
    def run_or_not(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In place of a forward that nobody looks into."""
        if self._decide(None) and self.placeholder is not None:
            return self.placeholder()
        out = forward(*args, **kwargs)
        self.placeholder = partial(_nothing_like, type(out), out[0].shape, out[0].dtype, out[0].device)
        return out

    def show(self, signal: torch.Tensor) -> None:
        """Called by the tap on the child that carries the signal."""
        assert self.state is not None
        self.state.signal = signal

    @closed_to_itself
    def play(self, block_call: BlockCall) -> Any:
        """In place of all blocks: decide if the step is new, then run them or reuse."""
        text_stream, blocks = self.architecture.text_stream, self.blocks
        if self.rerunning is not None:
            done = run_blocks(blocks, text_stream, block_call)
            self.rerunning.append(done.hidden - block_call.hidden)
            return done.return_value(text_stream)
        _, state = self._under_way
        state.blocks = len(blocks)
        if self._needs_first(state):
            state.first = run_blocks(blocks[:1], text_stream, block_call)
        if self._decide(block_call):
            return self._skip(block_call)
        rest, start = (blocks, block_call) if state.first is None else (blocks[1:], state.first)
        done = run_blocks(rest, text_stream, start)
        self._note_added(state, block_call, done)
        return done.return_value(text_stream)

    def _needs_first(self, state: StepState) -> bool:
        """Whether the first block runs before the others are decided on: where it runs in any case, and where
        someone looks at it.
        """
        if self.target is not None and self.target.first_block:
            return True
        senses, observed = self.attachment.policy.senses, self.attachment.observer is not None
        return state.branch == 0 and (observed or any(sense.first_block for sense in senses))

    def _note_added(self, state: StepState, before: BlockCall, after: BlockCall) -> None:
        if self.attachment.observer is not None or (self.target is not None and self.target.inside):
            state.residual = after.hidden - before.hidden
            state.tail = None if state.first is None else after.hidden - state.first.hidden

    @property
    def _under_way(self) -> tuple[Run, StepState]:
        assert self.attachment.run is not None and self.state is not None
        return self.attachment.run, self.state

    @closed
    def _decide(self, block_call: BlockCall | None) -> bool:
        """Whether this call reuses what is kept; the step's first call settles it. A branch of which nothing
        is kept, as where guidance begins, is computed.
        """
        run, state = self._under_way
        if state.branch == 0:
            if block_call is not None:
                self._look(state, block_call)
            state.latent = self.attachment.scheduler.undo_rounding(state.latent)
            run.decide(state, partial(self._serve, block_call, run, state))
        state.reuse = run.reuse and self._serve(block_call, run, state, branches=[state.branch])
        return state.reuse

    def _look(self, state: StepState, block_call: BlockCall) -> None:
        if isinstance(self.signal, BlockSignal):
            state.signal = self.signal.read(self.blocks[0], block_call)
        if state.first is not None:
            state.head = state.first.hidden - block_call.hidden

    def _serve(
        self, block_call: BlockCall | None, run: Run, state: StepState, branches: Iterable[int] | None = None
    ) -> bool:
        """Whether there is something to reuse, in all `branches` of the step unless some are given."""
        if self.target is None:
            return True
        if self.target.guided:
            # Where guidance begins or ends, what was predicted before is of another kind.
            alike = run.branches_before in (0, self.attachment.branches(self.architecture))
            return bool(run.guided) and alike
        inside = block_call if self.target.inside else None
        shape = state.given.shape if inside is None else inside.hidden.shape
        if branches is None:
            branches = range(self.attachment.branches(self.architecture))
        return all(run.history(id(self.module), branch).serves(shape) for branch in branches)

    def _forecast(self) -> torch.Tensor:
        _, state = self._under_way
        assert state.history is not None
        return state.history.forecast(state.step)

    @closed
    def _skip(self, block_call: BlockCall) -> Any:
        _, state = self._under_way
        assert self.target is not None
        if self.target.inside:
            start = state.first if state.first is not None and self.target.first_block else block_call
            block_call = start.with_states(self.target.restore(start.hidden, self._forecast()))
        return block_call.return_value(self.architecture.text_stream)

    @closed
    def after(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """Forward hook: take the stand-ins out, keep or replace the output; `out` is None when forward
        raised.
        """
        # A call that was refused before it began leaves the run as it is.
        if module is not self.module or self.rerunning is not None or self.state is None:
            return None
        self._restore()
        try:
            if out is None:
                self.attachment.drop()
            elif self.state.reuse:
                out = self._replace(out)
            else:
                self._keep(out[0], args, kwargs)
            return out
        finally:
            self.state = None

    def _replace(self, out: Any) -> Any:
        assert self.target is not None
        if self.target.inside or self.target.guided:
            return out
        _, state = self._under_way
        value = self.target.restore(state.given, self._forecast())
        return (value,) if isinstance(out, tuple) else type(out)(sample=value)

    def _keep(self, output: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run, state = self._under_way
        run.trace.transformer_calls += 1
        if self.target is not None and not self.target.guided:
            added = state.tail if self.target.first_block else state.residual
            state.value = self.target.keep(state.given, added, output)
        if state.branch == 0:
            state.output = output
            state.rerun = partial(self._rerun, state.step.timestep, args, kwargs)
            run.note_computed(state)
        if state.value is not None and state.history is not None:
            state.history.put(state.step, state.value, state.conditional)

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
        call = BlockCall(args, kwargs)
        hidden = call.hidden
        if latent is not None:
            hidden = hidden.clone()
            self.architecture.latent(hidden, self.channels).copy_(_repeat(latent, len(hidden)))
        residuals: list[torch.Tensor] = []
        self.rerunning = residuals
        self._put_in()
        try:
            call = call.with_states(hidden, timestep=moved)
            output: torch.Tensor = self.module(*call.args, **call.kwargs)[0]
            return Evaluated(residuals[0], output)
        finally:
            self.rerunning = None
            self._restore()


def _nothing_like(
    kind: Callable[..., Any], shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> Any:
    """What a forward returned, but for its numbers, which nobody is going to use: they take no memory."""
    sample = torch.zeros((), dtype=dtype, device=device).expand(shape)
    return (sample,) if kind is tuple else kind(sample=sample)


def _on_disk(block: Any) -> bool:
    registry = getattr(block, "_diffusers_hook", None)
    hook = registry.get_hook("group_offloading") if registry else None
    return hook is not None and hook.group.offload_to_disk_path is not None


def _repeat(latent: torch.Tensor, batch: int) -> torch.Tensor:
    # Guidance that doubles the batch sees the same latent twice.
    return torch.cat([latent] * (batch // len(latent)))
