"""From files to a pipeline on its device, each part where the placement wants it, with the sampler asked."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from sencache.architectures import architecture_of, find_architecture, text_encoders
from sencache.errors import SencacheError
from sencache.models import placement as memory
from sencache.models.checkpoint import check_tokenizer, measure_weights, read_error
from sencache.models.placement import TRANSFORMERS, Placement
from sencache.models.spec import ModelSpec
from sencache.models.zerogpu import CARD_BYTES, check_disk, on_zerogpu
from sencache.schema import SHIFTS, Request

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
log = logging.getLogger(__name__)


def find_device(name: str) -> torch.device:
    """The device; raises SencacheError, saying why, where it is not there or torch has no code for it."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise SencacheError(f"unknown device {name!r}; use cpu or cuda")
    version, made_for = torch.__version__, torch.version.cuda
    if not torch.cuda.is_available():
        remedy = f"check the driver with nvidia-smi, as torch is made for CUDA {made_for} and sees no GPU"
        if made_for is None:
            remedy = f"install a CUDA build of torch, as {version} is made for CPUs"
        raise SencacheError(f"device {name!r} is not available here; use cpu or {remedy}")
    if (device.index or 0) >= torch.cuda.device_count():
        raise SencacheError(f"there is no {name!r}; this machine has {torch.cuda.device_count()} GPUs")
    major, minor = torch.cuda.get_device_capability(device)
    built = torch.cuda.get_arch_list()
    # Code for an architecture runs on later ones of its generation, PTX (`compute_`) on later generations.
    if built and not any(each.startswith((f"sm_{major}", "compute_")) for each in built):
        raise SencacheError(
            f"torch {version} was built for {', '.join(built)} and {device} is sm_{major}{minor}; "
            "install a build of torch that has it"
        )
    return device


def choose_dtype(spec: ModelSpec, device: torch.device, asked: str | None) -> str | None:
    """The one precision of all parts, or None where each has its own: what was asked for, float32 on a CPU.

    Raises SencacheError for a precision that is unknown or that the GPU has not.
    """
    if asked is not None and asked not in DTYPES:
        raise SencacheError(f"unknown dtype {asked!r}; choose from {', '.join(DTYPES)}")
    if asked is None and device.type == "cpu":
        return "float32"
    chosen = DTYPES[asked] if asked else None
    bfloat16 = (chosen or spec.dtype) == "bfloat16"
    if device.type == "cuda" and bfloat16 and torch.cuda.get_device_capability(device) < (8, 0):
        raise SencacheError(f"{torch.cuda.get_device_name(device)} has no bfloat16; use --dtype fp16")
    return chosen


def choose_placement(
    spec: ModelSpec, folder: Path, device: torch.device, dtype: str | None, request: Request | None = None
) -> Placement | None:
    """Where the parts go to make `request`, else a video of the model's own size; None on a CPU.

    Raises SencacheError with the numbers where they do not fit, before anything is loaded.
    """
    size = {name: getattr(request or spec, name) for name in ("height", "width", "frames")}
    weights, work = measure_weights(spec, folder, dtype), memory.Work.of(replace(spec, **size), dtype)
    if find_architecture(spec.architecture).decoder is None:
        log.warning("memory is not planned for the VAE of %s: decoding may run out of it", spec.key)
    if device.type == "cpu":
        memory.check_ram(spec.key, weights, work, free_ram())
        return None
    # A Space that starts has no stream and no pinned memory.
    streams = not on_zerogpu()
    chosen = memory.plan_placement(spec.key, weights, work, free_gpu(device), free_ram(), streams)
    if on_zerogpu():
        waiting = weights.parts.get("text_encoder", 0) if chosen.text_encoder == "host" else 0
        check_disk(spec.key, 0, weights.total - waiting)
    return chosen


def free_ram() -> int:
    """Bytes that programs can still have."""
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().available)


def free_gpu(device: torch.device) -> int:
    """Bytes free on a GPU; on ZeroGPU, which has none while it loads, what its normal card takes."""
    return CARD_BYTES if on_zerogpu() else int(torch.cuda.mem_get_info(device)[0])


def load_pipeline(
    spec: ModelSpec, folder: Path, device: torch.device, dtype: str | None, placement: Placement | None
) -> Any:
    """The pipeline with its parts in place; raises SencacheError for files that cannot be used.

    `dtype` is that of all parts; None leaves each its own.
    """
    check_tokenizer(spec, folder)
    pipe = _from_files(spec, folder, dtype)
    pipe.set_progress_bar_config(disable=True)
    try:
        place(pipe, device, placement)
    except torch.OutOfMemoryError:
        raise SencacheError(
            f"{spec.key} did not fit {device}, though {memory.gigabytes(free_gpu(device))} are free now; "
            "close what else runs there and load it again"
        ) from None
    return pipe


def _from_files(spec: ModelSpec, folder: Path, dtype: str | None) -> Any:
    import diffusers
    from diffusers.utils import logging as diffusers_logging
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    own = {"default": spec.dtype, **spec.dtypes}
    dtypes = {part: getattr(torch, dtype or name) for part, name in own.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(diffusers, spec.pipeline).from_pretrained(
                str(folder), dtype=dtypes, local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise read_error(spec, str(error).strip().partition("\n")[0]) from None


def place(pipe: Any, device: torch.device, placement: Placement | None) -> None:
    """Move every part of `pipe` to where `placement` wants it; None puts all on `device`."""
    for name in (*text_encoders(), "image_encoder", "vae", *TRANSFORMERS):
        part = getattr(pipe, name, None)
        if part is None or (placement and name == "text_encoder" and placement.text_encoder == "host"):
            continue
        if placement and name in TRANSFORMERS and placement.transformers in ("streamed", "blocks"):
            bring_blocks_one_by_one(part, device, ahead=placement.transformers == "streamed")
        else:
            part.to(device)
    if placement and placement.tiled:
        pipe.vae.enable_tiling()


def bring_blocks_one_by_one(transformer: Any, device: torch.device, ahead: bool = False) -> None:
    """Keep the blocks in RAM and move each to `device` for the length of its call; all else stays there.

    `ahead`: from pinned memory on a stream of its own, while the block before computes; nothing is copied
    back. Otherwise a block is waited for, and copied back when it is done.

    diffusers' own group offloading of a whole transformer replaces its `forward`, which lanes cannot share.
    Here only the blocks are offloaded, which all lanes have in common.
    """
    from diffusers.hooks import apply_group_offloading

    names = architecture_of(transformer).blocks
    for child_name, child in transformer.named_children():
        if child_name not in names:
            child.to(device)
    for own in (*transformer.parameters(recurse=False), *transformer.buffers(recurse=False)):
        own.data = own.data.to(device)
    holder = torch.nn.Module()
    for name in names:
        holder.add_module(name, transformer.get_submodule(name))
    if ahead:
        _pin(holder)
    apply_group_offloading(
        holder,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=ahead,
        # Blocks are pinned already: diffusers would hold all of them twice while it pins them.
        low_cpu_mem_usage=ahead,
    )
    if ahead:
        _chain([block for blocks in holder.children() for block in blocks.children()])


def _pin(blocks: torch.nn.Module) -> None:
    try:
        for tensor in (*blocks.parameters(), *blocks.buffers()):
            tensor.data = tensor.data.pin_memory()
    except RuntimeError as error:
        raise SencacheError(
            f"the transformer's blocks do not fit pinned RAM ({str(error).partition(chr(10))[0]}); free RAM, "
            "raise the limit of locked memory (ulimit -l) or use a larger GPU"
        ) from None


def _chain(blocks: Sequence[Any]) -> None:
    """Tell every block's hook which one comes next; the first is waited for. diffusers finds the order out in
    the first forward of a whole transformer; here it is that of the list in every lane, and a reused step
    calls no block.
    """
    hooks = [block._diffusers_hook.get_hook("group_offloading") for block in blocks]
    for hook in hooks:
        hook.group.onload_self = False
    for hook, following in pairwise(hooks):
        hook.next_group = following.group


@contextmanager
def encoder_at_hand(
    pipe: Any, text_encoder: Any, device: torch.device, placement: Placement | None
) -> Iterator[None]:
    """Have the text encoder in `pipe` and on `device` inside the block, whatever its usual place.

    It is not part of the pipeline otherwise: diffusers takes the device of a run from any part it finds.
    """
    if placement is None or placement.text_encoder == "device":
        yield
        return
    there = [getattr(pipe, name, None) for name in TRANSFORMERS if placement.transformers == "swapped"]
    transformers = [part for part in there if part is not None]
    try:
        for part in transformers:
            part.to("cpu")
        pipe.text_encoder = text_encoder.to(device)
        yield
    finally:
        pipe.text_encoder = None
        text_encoder.to("cpu")
        for part in transformers:
            part.to(device)


def other_scheduler(own: Any, architecture: str, name: str | None, shift: float | None) -> Any:
    """The scheduler `name` with the settings of `own`, and with `shift` where one is given.

    Raises SencacheError for a name that the architecture's pipeline cannot use, and for a shift where the
    schedule has none or computes it from the size of the video.
    """
    if name is None and shift is None:
        return own
    samplers = find_architecture(architecture).samplers
    if name is not None and name not in samplers:
        raise SencacheError(f"unknown scheduler {name!r}; this model takes {', '.join(samplers)}")
    wanted = type(own).__name__ if name is None else samplers[name]
    config = {key: value for key, value in own.config.items() if not key.startswith("_")}
    present = config.get(SHIFTS.get(type(own).__name__, ""))
    if wanted in SHIFTS:
        config |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True, SHIFTS[wanted]: present}
    if shift is not None:
        if wanted not in SHIFTS or config.get("use_dynamic_shifting"):
            raise SencacheError(
                f"{wanted} takes no shift here, and {shift:g} was asked for; leave --shift out"
            )
        if not 0 < shift <= 100:
            raise SencacheError(f"a shift of {shift:g} is out of range; give one above 0 and up to 100")
        config[SHIFTS[wanted]] = shift
    import diffusers

    cls = getattr(diffusers, wanted)
    taken = inspect.signature(cls.__init__).parameters
    return cls(**{key: value for key, value in config.items() if key in taken and value is not None})


def describe_scheduler(scheduler: Any) -> str:
    """Class and shift, as in `UniPCMultistepScheduler shift 3`."""
    name = type(scheduler).__name__
    shift = scheduler.config.get(SHIFTS.get(name, ""))
    unknown = shift is None or scheduler.config.get("use_dynamic_shifting")
    return name if unknown else f"{name} shift {shift:g}"
