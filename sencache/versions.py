"""The versions of everything that measured numbers depend on."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("sencache-space", "torch", "diffusers", "transformers", "lpips", "torchmetrics")


def versions() -> dict[str, str]:
    """Package versions as installed; a package run from a checkout without being installed says so."""
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "checkout"
