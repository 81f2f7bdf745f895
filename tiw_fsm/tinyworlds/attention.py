"""Multi-head attention over the patches of a frame, and over the frames of a patch.

How it is computed is decided by shapes and device alone, and so is the order of every sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_FRAMES = 16
"""Up to so many frames a CPU looks at one by one: a kernel for long sequences takes four times as long on these."""


def over_patches(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Each patch attends to all patches of its own frame: [B, T, P, E] each, to the same shape."""
    B, T, P, E = q.shape
    split = (x.reshape(B * T, P, heads, -1).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(*split).transpose(1, 2).reshape(B, T, P, E)


def over_frames(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Each patch attends to the same patch in its own and earlier frames.

    Args:
        q: of the last frames, [B, F, P, E].
        k, v: of all frames, [B, T, P, E], T >= F.

    Returns:
        [B, F, P, E].
    """
    B, T, P, E = k.shape
    wanted = q.shape[1]
    if q.device.type == "cpu" and T <= FEW_FRAMES:
        return _frame_by_frame(q, k, v, heads)
    split = (x.reshape(B, -1, P * heads, E // heads).transpose(1, 2) for x in (q, k, v))
    known = torch.ones(wanted, T, dtype=torch.bool, device=q.device).tril(T - wanted) if wanted < T else None
    mixed = F.scaled_dot_product_attention(*split, attn_mask=known, is_causal=known is None)
    return mixed.transpose(1, 2).reshape(q.shape)


def _frame_by_frame(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Numbers are multiplied side by side, and a product with a constant adds up those of a head."""
    T, E = k.shape[1], k.shape[3]
    width = E // heads
    of_head = torch.eye(heads, dtype=q.dtype).repeat_interleave(width, 0)  # [E, heads]
    mixed = []
    for frame, query in enumerate(q.unbind(1), T - q.shape[1]):
        seen = slice(frame + 1)
        scores = (query[:, None] * k[:, seen]) @ (of_head * width**-0.5)  # [B, frame + 1, P, heads]
        mixed.append(((scores.softmax(1) @ of_head.T) * v[:, seen]).sum(1))
    return torch.stack(mixed, 1)
