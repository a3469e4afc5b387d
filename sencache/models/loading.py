"""From files to a pipeline on its device, each part where the placement wants it."""

from __future__ import annotations

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
from sencache.models.checkpoint import measure_weights, unreadable
from sencache.models.placement import TRANSFORMERS, Placement, Work, check_ram, gigabytes, plan_placement
from sencache.models.spec import ModelSpec
from sencache.models.tokenizer import check_tokenizer
from sencache.models.zerogpu import CARD_BYTES, check_disk, on_zerogpu
from sencache.schema import Request

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
log = logging.getLogger(__name__)


def find_device(name: str) -> torch.device:
    """The device; raises SencacheError, saying why, where it is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise SencacheError(f"unknown device {name!r}; use cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SencacheError(f"device {name!r} is not available here; use cpu or {_without_cuda()}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SencacheError(f"there is no {name!r}; this machine has {torch.cuda.device_count()} GPUs")
    if device.type == "cuda":
        _check_build(device)
    return device


def _check_build(device: torch.device) -> None:
    """Refuse a GPU that this build of torch has no code for."""
    major, minor = torch.cuda.get_device_capability(device)
    built = torch.cuda.get_arch_list()
    # Code for an architecture runs on later ones of its generation, PTX (`compute_`) on later generations.
    if built and not any(name.startswith((f"sm_{major}", "compute_")) for name in built):
        raise SencacheError(
            f"torch {torch.__version__} was built for {', '.join(built)} and {device} is sm_{major}{minor}; "
            "install a build of torch that has it"
        )


def _without_cuda() -> str:
    if torch.version.cuda is None:
        return f"install a CUDA build of torch, as {torch.__version__} is made for CPUs"
    return f"check the driver with nvidia-smi, as torch is made for CUDA {torch.version.cuda} and sees no GPU"


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
    sized = (
        replace(spec, height=request.height, width=request.width, frames=request.frames) if request else spec
    )
    weights, work = measure_weights(spec, folder, dtype), Work.of(sized, dtype)
    if find_architecture(spec.architecture).decoder is None:
        log.warning("memory is not planned for the VAE of %s: decoding may run out of it", spec.key)
    if device.type == "cpu":
        check_ram(spec.key, weights, work, free_ram())
        return None
    # A Space that starts has no stream and no pinned memory.
    streams = not on_zerogpu()
    placement = plan_placement(spec.key, weights, work, free_gpu(device), free_ram(), streams)
    if on_zerogpu():
        waiting = weights.parts.get("text_encoder", 0) if placement.text_encoder == "host" else 0
        check_disk(spec.key, 0, weights.total - waiting)
    return placement


def free_ram() -> int:
    """Bytes that programs can still have."""
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().available)


def free_gpu(device: torch.device) -> int:
    """Bytes free on a GPU; on ZeroGPU, which has none while it loads, what its normal card takes."""
    if on_zerogpu():
        return CARD_BYTES
    return int(torch.cuda.mem_get_info(device)[0])


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
            f"{spec.key} did not fit {device}, though {gigabytes(free_gpu(device))} are free now; "
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(diffusers, spec.pipeline).from_pretrained(
                str(folder), dtype=_precisions(spec, dtype), local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable(spec, str(error).strip().partition("\n")[0]) from None


def _precisions(spec: ModelSpec, dtype: str | None) -> torch.dtype | dict[str, torch.dtype]:
    if dtype is not None:
        return torch_dtype(dtype)
    own = {name: torch_dtype(each) for name, each in spec.dtypes.items()}
    return {"default": torch_dtype(spec.dtype), **own}


def torch_dtype(name: str) -> torch.dtype:
    """By its name, as `bfloat16`."""
    found: torch.dtype = getattr(torch, name)
    return found


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
        _bring_next_beside([block for blocks in holder.children() for block in blocks.children()])


def _pin(blocks: torch.nn.Module) -> None:
    try:
        for tensor in (*blocks.parameters(), *blocks.buffers()):
            tensor.data = tensor.data.pin_memory()
    except RuntimeError as error:
        raise SencacheError(
            f"the transformer's blocks do not fit pinned RAM ({str(error).partition(chr(10))[0]}); free RAM, "
            "raise the limit of locked memory (ulimit -l) or use a larger GPU"
        ) from None


def _bring_next_beside(blocks: Sequence[Any]) -> None:
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
    away = [getattr(pipe, name, None) for name in TRANSFORMERS if placement.transformers == "swapped"]
    try:
        _move(away, "cpu")
        pipe.text_encoder = text_encoder.to(device)
        yield
    finally:
        pipe.text_encoder = None
        text_encoder.to("cpu")
        _move(away, device)


def _move(modules: list[Any], device: torch.device | str) -> None:
    for module in modules:
        if module is not None:
            module.to(device)
