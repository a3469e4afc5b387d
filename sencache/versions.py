"""The versions of everything that measured numbers depend on."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("sencache-space", "torch", "diffusers", "transformers", "lpips", "torchmetrics")


def versions() -> dict[str, str]:
    """Package versions as installed; a package run from a checkout without being installed says so."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "checkout"
    return found
