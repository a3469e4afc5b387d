"""Attention for training on a CPU: the maths of the pipelines' processors, written as batched products.

On short sequences that took two thirds of the time of `scaled_dot_product_attention`, whose backward pass is
slow there. Exported weights run with the pipelines' own processors.
"""

from __future__ import annotations

from typing import Any

import torch

Rotation = tuple[torch.Tensor, torch.Tensor]


class _Processor:
    """What diffusers asks of every processor."""

    _attention_backend = None
    _parallel_config = None


class WanProcessor(_Processor):
    """As `WanAttnProcessor`: RMS norm over all heads, rotation per head."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: Rotation | None = None,
    ) -> torch.Tensor:
        projected = _project(attn, hidden_states, encoder_hidden_states)
        query, key, value = (t.unflatten(2, (attn.heads, -1)) for t in projected)
        if rotary_emb is not None:
            query, key = rotate(query, rotary_emb), rotate(key, rotary_emb)
        mixed: torch.Tensor = attn.to_out[0](attend(query, key, value))
        return mixed


class LTXProcessor(_Processor):
    """As `LTXVideoAttnProcessor`: rotation over all heads at once, and a mask of the caption's padding."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
    ) -> torch.Tensor:
        """[batch, tokens, width]; the mask [batch, 1, tokens] is added to the logits."""
        query, key, value = _project(attn, hidden_states, encoder_hidden_states)
        if image_rotary_emb is not None:
            query, key = rotate(query, image_rotary_emb), rotate(key, image_rotary_emb)
        query, key, value = (t.unflatten(2, (attn.heads, -1)) for t in (query, key, value))
        mixed: torch.Tensor = attn.to_out[0](attend(query, key, value, attention_mask))
        return mixed


def _project(
    attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None
) -> tuple[Any, Any, Any]:
    """Query and key, normalised over all heads together, and value: each [batch, tokens, width]."""
    context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    return attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(context)), attn.to_v(context)


class CogVideoXProcessor(_Processor):
    """As `CogVideoXAttnProcessor2_0`: text and video attend together, only the video is rotated."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Video and text, each [batch, tokens, width]."""
        words = encoder_hidden_states.shape[1]
        both = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            to(both).unflatten(2, (attn.heads, -1)) for to in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = attn.norm_q(query), attn.norm_k(key)
        if image_rotary_emb is not None:
            turn = (image_rotary_emb[0][:, None], image_rotary_emb[1][:, None])
            query = torch.cat([query[:, :words], rotate(query[:, words:], turn)], dim=1)
            key = torch.cat([key[:, :words], rotate(key[:, words:], turn)], dim=1)
        mixed = attn.to_out[0](attend(query, key, value))
        return mixed[:, words:], mixed[:, :words]


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Turn neighbouring pairs of the last axis by the angle whose (cosine, sine) are `rotation`."""
    cosine, sine = (part.to(x.dtype) for part in rotation)
    even, odd = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return x * cosine + torch.stack([-odd, even], dim=-1).flatten(-2) * sine


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention of [batch, tokens, heads, channels], flattened to [batch, tokens, width]."""
    batch, tokens, heads, channels = query.shape
    query, key, value = (t.to(value.dtype).transpose(1, 2).flatten(0, 1) for t in (query, key, value))
    logits = torch.bmm(query * channels**-0.5, key.transpose(1, 2))
    if mask is not None:
        logits = (logits.view(batch, heads, tokens, -1) + mask[:, None]).flatten(0, 1)
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32).to(value.dtype)
    mixed = torch.bmm(weights, value).view(batch, heads, tokens, channels)
    return mixed.transpose(1, 2).reshape(batch, tokens, -1)
