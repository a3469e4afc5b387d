"""Floating-point operations of a model's parts, two for each multiply-add. Pure arithmetic; no framework.

Counted are the products of matrices and of attention. What is left out (norms, rotary and time embeddings,
an image's own tokens) is less than one in a hundred: a test counts the real classes.
"""

from __future__ import annotations

from dataclasses import replace

from sencache.architectures import find_architecture
from sencache.models.placement import tokens
from sencache.models.spec import ModelSpec
from sencache.schema import Request


def at_size(spec: ModelSpec, request: Request) -> ModelSpec:
    """`spec` with the numbers of `request`: everything here is for the size and guidance in the entry."""
    names = ("height", "width", "frames", "steps", "guidance_scale")
    return replace(spec, **{name: getattr(request, name) for name in names})


def evaluation(spec: ModelSpec) -> int:
    """The transformer's work on one video under one prompt."""
    video, text, width = tokens(spec), spec.max_sequence_length, spec.inner
    joint = find_architecture(spec.architecture).text_stream
    count = video + text if joint else video
    block = count * width * (4 * width + 2 * spec.feed_forward) + 2 * count**2 * width
    if not joint:
        block += 2 * (video + text) * width**2 + 2 * video * text * width
    return 2 * (spec.layers * block + 2 * video * width * spec.token_values)


def branches(spec: ModelSpec) -> int:
    """Evaluations in one step: two under guidance, made one by one or at once."""
    return 2 if find_architecture(spec.architecture).guided(spec.guidance_scale) else 1


def guided_step(spec: ModelSpec) -> int:
    return branches(spec) * evaluation(spec)


def decoding(spec: ModelSpec) -> int:
    return spec.vae_flops * spec.height * spec.width * spec.frames


def encoding(spec: ModelSpec) -> int:
    """The text encoder's work on the prompts, roughly: every parameter once a token."""
    parts = find_architecture(spec.architecture).text_encoders
    parameters = sum(spec.parameters.get(part, 0) for part in parts)
    return 2 * branches(spec) * spec.max_sequence_length * parameters
