"""A GPU for machines without one: `import emulation` first of all, and "cuda" is a device of this process.

The CPU computes. Tensors know which device they claim to be on, and operations that mix devices raise as they
would on a GPU: that is the emulation that `spaces` puts in place on ZeroGPU until a real GPU is lent. On top
of it a CPU scalar may meet CUDA tensors in arithmetic and nowhere else, a CUDA tensor is no numpy array,
threads have the device too, and events, streams and memory are told from the host. All GPUs are one: a tensor
on "cuda:1" says that it is on "cuda:0". Needs a CUDA build of torch.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

# Read when `spaces` is imported; without an address of the service that lends GPUs it would not start.
os.environ |= {"SPACES_ZERO_GPU": "1", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9"}

import spaces  # noqa: E402
import torch  # noqa: E402
from spaces.zero.torch import patching  # noqa: E402

# From here on this is a machine with GPUs of its own, from which nothing is booked.
del os.environ["SPACES_ZERO_GPU"], os.environ["SPACES_ZERO_DEVICE_API_URL"]
spaces.config.Config.zero_gpu = False

GPUS = 2
GPU_BYTES = 80 * 10**9
_emulated = patching.ZeroGPUFunctionMode.__torch_function__


def on_gpu(value: Any) -> bool:
    """Whether it is a tensor that claims to be on a GPU."""
    return isinstance(value, torch.Tensor) and value in patching.cuda_aliases


def _dispatch(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    """As `spaces` has it, but stricter where a GPU is, and kinder where one is."""
    kwargs = kwargs or {}
    if func in (torch.Tensor.numpy, torch.Tensor.__array__) and on_gpu(args[0]):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; copy it to the host first")
    if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], torch.Tensor):
        wanted = {"device": "cuda" if on_gpu(args[1]) else "cpu", "dtype": args[1].dtype}
        return mode.__torch_function__(func, types, args[:1], {**wanted, **kwargs})
    if func is torch.Tensor.pin_memory:
        return args[0]
    if func is torch.Tensor.record_stream:
        return None
    if func not in (torch.stack, torch.cat) and any(map(on_gpu, args)):
        args = (args[0], *(_joined(mode, types, arg) for arg in args[1:]))
        if not func.__name__.strip("_").endswith("set") and not func.__name__.endswith("_"):
            args = (_joined(mode, types, args[0]), *args[1:])
    return _emulated(mode, func, types, args, kwargs)


def _joined(mode: Any, types: Any, value: Any) -> Any:
    """A CPU scalar goes wherever the other operands are."""
    if isinstance(value, torch.Tensor) and value.dim() == 0 and not on_gpu(value):
        return _emulated(mode, torch.Tensor.to, types, (value,), {"device": "cuda"})
    return value


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
    """Work in its order, as all work here is."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    wait_stream = wait_event = record_event = lambda self, *_: None


def allocated(_: Any = None) -> int:
    """Bytes of all tensors that claim to be on a GPU."""
    return int(patching._total_unpacked_size())


def _in_threads() -> None:
    """What replaces torch's functions belongs to a thread, so every new one begins with it."""
    run = threading.Thread.run

    def emulated(thread: threading.Thread) -> None:
        with patching.ZeroGPUFunctionMode(), patching.DefaultDispatchMode():
            run(thread)

    threading.Thread.run = emulated  # type: ignore[method-assign]


def _begin() -> None:
    patching.ZeroGPUFunctionMode.__torch_function__ = _dispatch
    _in_threads()
    replaced = {
        "device_count": lambda: GPUS,
        "set_device": lambda _: None,
        "mem_get_info": lambda _=None: (GPU_BYTES - allocated(), GPU_BYTES),
        "memory_allocated": allocated,
        "max_memory_allocated": allocated,
        "reset_peak_memory_stats": lambda _=None: None,
        "empty_cache": lambda: None,
        "current_stream": Stream,
        "stream": lambda stream: stream,
        "Event": Event,
        "Stream": Stream,
    }
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)
    try:
        torch.stack([torch.zeros(()), torch.zeros((), device="cuda")])
    except RuntimeError:
        return
    raise AssertionError("devices mix in this emulation: `spaces` has changed")


_begin()
