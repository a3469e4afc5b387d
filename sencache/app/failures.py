"""What went wrong, in one sentence that says what to do."""

from __future__ import annotations

import huggingface_hub.errors as hub
import torch

from sencache.errors import SencacheError

NETWORK = (ConnectionError, TimeoutError, hub.HfHubHTTPError, hub.LocalEntryNotFoundError)


def explain(error: Exception, model: str) -> str:
    """One sentence for a visitor; no internals, no paths."""
    if out_of_memory(error):
        return (
            f"there was not enough memory for {model} at this size; "
            "choose a smaller size, fewer frames or fewer methods"
        )
    if isinstance(error, NETWORK) or isinstance(error.__cause__, NETWORK):
        return f"the Hub cannot be reached for {model}; check the network and try again"
    if isinstance(error, FileNotFoundError):
        return f"a file of {model} is missing; install the package again, or choose another model"
    return (
        f"the comparison stopped on an unexpected {type(error).__name__}; "
        "run it again, and report it with the settings link if it stays"
    )


def cut_off(error: Exception | None) -> str:
    """Why lanes are missing from a run that `error` cut off, as when ZeroGPU takes the GPU back."""
    if isinstance(error, SencacheError):
        return str(error)
    # ZeroGPU speaks in gradio's errors, which hold their text apart.
    said = getattr(error, "message", None) or type(error).__name__
    return f"the process that made it was ended ({said})"


def out_of_memory(error: Exception) -> bool:
    """On a GPU, or on a CPU, where torch raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
