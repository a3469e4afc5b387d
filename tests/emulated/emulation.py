"""A GPU for machines without one: `import emulation`, and "cuda:0" and "cuda:1" are devices of this process.

The CPU computes. Every tensor knows which device it claims to be on, its results inherit that, and what
would raise on a GPU raises here: operations that mix devices, a CUDA tensor taken for a numpy array, noise
from a generator of another device. As on a GPU, a CPU scalar may meet CUDA tensors in arithmetic, and not in
`cat` and `stack`. Events and streams are the host's, kernels and precision a CPU's, and peaks of memory are
not told.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

GPUS, GPU_BYTES, CAPABILITY = 2, 80 * 10**9, (9, 0)
T = torch.Tensor
# These take operands of several devices, and give what is on the first one's.
MIXING = {T.copy_, T.__getitem__, T.__setitem__, T.data.__set__, torch.Tensor.set_}
# Without a tensor for a result, but not without a device.
COMPARING = {torch.equal, T.equal, torch.allclose, T.allclose}
# Here not even a scalar may be elsewhere.
STRICT = {torch.stack, torch.cat}
# What the host can only know once the device is done.
WAITS = {T.item, T.tolist, T.__bool__, T.__int__, T.__float__, T.__index__, T.nonzero, torch.nonzero}

# Names of the functions for which the host has waited, in order.
waits: list[str] = []
_current = threading.local()
_make_subclass = torch.Tensor._make_subclass


def claimed(tensor: torch.Tensor) -> torch.device | None:
    """The GPU that `tensor` claims to be on, None for the host."""
    return getattr(tensor, "_claimed", None)


def _gpu(device: Any) -> torch.device | None:
    """`device` with the number of the GPU, None for any other."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type != "cuda":
        return None
    return torch.device("cuda", current_device() if device.index is None else device.index)


def _on(device: torch.device | None, result: Any) -> Any:
    """`result` with all its tensors claiming to be on `device`."""
    for tensor in _tensors(result):
        # The host has no mark: others may look into the dictionary of a tensor.
        tensor.__dict__.pop("_claimed", None)
        if device is not None:
            tensor._claimed = device  # type: ignore[attr-defined]
    return result


def _tensors(*values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(*value)


class Gpu(TorchFunctionMode):
    """Sees every function of torch before torch does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in SPECIAL:
            return SPECIAL[func](func, *args, **kwargs)
        _note_wait(func, args)
        if kwargs.get("device") is None:
            return self._inherits(func, args, kwargs)
        device = _gpu(kwargs["device"])
        generator = kwargs.get("generator")
        if generator is not None and device is not None:
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{generator.device}'")
        return _on(device, func(*args, **(kwargs | {"device": "cpu" if device else kwargs["device"]})))

    @staticmethod
    def _inherits(func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        if func not in COMPARING and next(_tensors(result), None) is None:
            return result
        tensors = [*_tensors(*args, *kwargs.values())]
        if func is T.__getitem__:
            _check_indices(tensors)
        device = claimed(tensors[0]) if func in MIXING else _shared(func, tensors)
        return result if device is None else _on(device, result)


def _shared(func: Any, tensors: list[torch.Tensor]) -> torch.device | None:
    found = {claimed(tensor) for tensor in tensors}
    if len(found) < 2:
        return found.pop() if found else None
    held = {claimed(t) for t in tensors if func in STRICT or t.dim() or claimed(t)}
    if len(held) > 1:
        names = " and ".join(sorted(str(device or "cpu") for device in held))
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {names}")
    return held.pop()


def _check_indices(tensors: list[torch.Tensor]) -> None:
    picked = claimed(tensors[0])
    # A number is brought to the host for it, and serves anywhere.
    if any(claimed(index) not in (None, picked) for index in tensors[1:] if index.dim()):
        raise RuntimeError(f"indices should be either on cpu or on the device of the tensor ({picked})")


def _note_wait(func: Any, args: Any) -> None:
    picked = func is T.__getitem__ and any(
        claimed(index) and (index.dim() == 0 or index.dtype == torch.bool) for index in _tensors(args[1])
    )
    if picked or (func in WAITS and claimed(args[0])):
        waits.append(func.__name__)


# ---- what moves, and what tells where it is


def _moved(func: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
    if args and isinstance(args[0], torch.Tensor):
        device, dtype = args[0].device, args[0].dtype
        target = claimed(args[0])
    else:
        copied = {"copy": kwargs.pop("copy")} if "copy" in kwargs else {}
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        kwargs, target = copied, claimed(tensor) if device is None else _gpu(device)
    if target != claimed(tensor):
        kwargs["copy"] = True
        if target is None:
            waits.append("to")
    moved = tensor.to(dtype or tensor.dtype, copy=kwargs.get("copy", False))
    return moved if moved is tensor else _on(target, moved)


def _set_data(func: Any, tensor: Any, value: Any) -> None:
    func(tensor, value)
    _on(claimed(value), tensor)


def _as_array(func: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
    if claimed(tensor):
        raise TypeError(f"can't convert {claimed(tensor)} device type tensor to numpy; use Tensor.cpu()")
    return func(tensor, *args, **kwargs)


SPECIAL: dict[Any, Callable[..., Any]] = {
    T.to: _moved,
    T.cpu: lambda _, tensor, **__: _moved(T.to, tensor, "cpu"),
    T.cuda: lambda _, tensor, device=None, **__: _moved(T.to, tensor, device or "cuda"),
    T.data.__set__: _set_data,
    T.device.__get__: lambda func, tensor: claimed(tensor) or func(tensor),
    T.is_cuda.__get__: lambda _, tensor: claimed(tensor) is not None,
    T.is_cpu.__get__: lambda func, tensor: claimed(tensor) is None and func(tensor),
    T.get_device: lambda func, tensor: claimed(tensor).index if claimed(tensor) else func(tensor),
    T.numpy: _as_array,
    T.__array__: _as_array,
    T.pin_memory: lambda _, tensor: tensor,
    T.is_pinned: lambda _, tensor: False,
    T.record_stream: lambda *_: None,
    torch._C._nn._parse_to: lambda func, *args, **kwargs: func(*args, **kwargs),
}


def _subclass(cls: Any, data: Any, requires_grad: bool = False, **kwargs: Any) -> Any:
    # Parameters are made without asking any mode.
    return _on(claimed(data), _make_subclass(cls, data, requires_grad, **kwargs))


# ---- torch.cuda


class Event:
    """A mark in a stream; everything queued before it is done, as the CPU queues nothing."""

    def __init__(self, **_: Any) -> None:
        self._at = 0.0

    def record(self, stream: Any = None) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end._at - self._at) * 1000


class Stream:
    """Work in its order, as all work is here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    wait_stream = wait_event = record_event = lambda self, *_: None


def current_device() -> int:
    """The thread's own."""
    return getattr(_current, "index", 0)


def set_device(device: Any) -> None:
    found = _gpu(device)
    _current.index = found.index if found else 0


def memory_allocated(device: Any = "cuda") -> int:
    """Bytes of all living tensors that claim to be there, each storage once."""
    there = _gpu(device)
    storages = {
        storage.data_ptr(): storage.nbytes()
        for tensor in gc.get_objects()
        if issubclass(type(tensor), torch.Tensor) and claimed(tensor) == there
        for storage in [tensor.untyped_storage()]
    }
    return sum(storages.values())


def _properties(_: Any = None) -> Any:
    major, minor = CAPABILITY
    return SimpleNamespace(name="Emulated GPU", total_memory=GPU_BYTES, major=major, minor=minor)


CUDA: dict[str, Any] = {
    "Event": Event,
    "Stream": Stream,
    "current_device": current_device,
    "current_stream": Stream,
    "device_count": lambda: GPUS,
    "empty_cache": lambda: None,
    "get_arch_list": lambda: [f"sm_{CAPABILITY[0]}{CAPABILITY[1]}"],
    "get_device_capability": lambda _=None: CAPABILITY,
    "get_device_name": lambda _=None: "Emulated GPU",
    "get_device_properties": _properties,
    "is_available": lambda: True,
    "is_current_stream_capturing": lambda: False,
    "max_memory_allocated": lambda _=None: 0,
    "mem_get_info": lambda _=None: (GPU_BYTES, GPU_BYTES),
    "memory_allocated": memory_allocated,
    "reset_peak_memory_stats": lambda _=None: None,
    "set_device": set_device,
    "stream": lambda stream: stream,
    "synchronize": lambda _=None: None,
}


def _in_threads() -> None:
    """A mode belongs to a thread, so every new one begins with it."""
    run = threading.Thread.run

    def emulated(thread: threading.Thread) -> None:
        with Gpu():
            run(thread)

    threading.Thread.run = emulated  # type: ignore[method-assign]


def _begin() -> None:
    for name, value in CUDA.items():
        setattr(torch.cuda, name, value)
    torch.Tensor._make_subclass = _subclass  # type: ignore[assignment,method-assign]
    _in_threads()
    Gpu().__enter__()


_begin()
