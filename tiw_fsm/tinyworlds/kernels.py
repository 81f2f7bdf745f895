"""The parts of a transformer of which torch's own are not the fastest for every shape and device.

How each is computed is decided by shapes and the device alone, and so is the order of every sum. On CUDA, and where a
compiler is at work, torch's own are taken.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW_FRAMES = 16
"""Up to so many frames a CPU looks at one by one: torch's attention is made for long sequences, and takes four times as
long."""


def over_patches(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Each patch attends to all patches of its own frame: [B, T, P, E] each, to the same shape."""
    B, T, P, E = q.shape
    q_, k_, v_ = (x.reshape(B * T, P, heads, E // heads).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q_, k_, v_).transpose(1, 2).reshape(q.shape)


def over_frames(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Each patch attends to the same patch in its own and earlier frames.

    Args:
        q: of the last frames, [B, F, P, E].
        k: of all frames, [B, T, P, E], T >= F.
        v: like ``k``.

    Returns:
        [B, F, P, E].
    """
    B, T, P, E = k.shape
    wanted = q.shape[1]
    if _by_ourselves(q) and T <= FEW_FRAMES:
        one_by_one: Tensor = _OneByOne.apply(q, k, v, heads)  # type: ignore[no-untyped-call]
        return one_by_one
    q_, k_, v_ = (x.reshape(B, -1, P * heads, E // heads).transpose(1, 2) for x in (q, k, v))
    known = torch.ones(wanted, T, dtype=torch.bool, device=q.device).tril(T - wanted) if wanted < T else None
    mixed = F.scaled_dot_product_attention(q_, k_, v_, attn_mask=known, is_causal=known is None)
    return mixed.transpose(1, 2).reshape(q.shape)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., E] over the root of its mean square, times weight [E] (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    if _by_ourselves(x):
        normed: Tensor = _RootMeanSquare.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return normed
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def _by_ourselves(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class _OneByOne(torch.autograd.Function):
    """``over_frames``, frame by frame. Numbers are multiplied side by side; a constant adds up those of a head."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        width = q.shape[-1] // heads
        of_head = torch.eye(heads, dtype=q.dtype).repeat_interleave(width, 0)  # [E, heads]
        scaled, mixed, weights = of_head * width**-0.5, q.new_empty(q.shape), []
        if _begins(q, k):
            mixed[:, 0] = v[:, 0]
        for number, frames in _seeing_others(q, k):
            weights.append(((q[:, number, None] * k[:, frames]) @ scaled).softmax(1))  # [B, frames, P, heads]
            torch.sum((weights[-1] @ of_head.T).mul_(v[:, frames]), 1, out=mixed[:, number])
        ctx.save_for_backward(q, k, v, of_head, scaled, *weights)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, of_head, scaled, *weights = ctx.saved_tensors
        dq, dk, dv = q.new_empty(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)
        if _begins(q, k):
            dq[:, 0] = 0
            dv[:, 0] = grad[:, 0]
        for (number, frames), weight in zip(_seeing_others(q, k), weights, strict=True):
            mine = grad[:, number, None]
            dv[:, frames].addcmul_(weight @ of_head.T, mine)
            slopes = (mine * v[:, frames]) @ of_head
            changes = torch._softmax_backward_data(slopes, weight, 1, slopes.dtype) @ scaled.T
            dk[:, frames].addcmul_(changes, q[:, number, None])
            torch.sum(changes.mul_(k[:, frames]), 1, out=dq[:, number])
        return dq, dk, dv, None


def _begins(q: Tensor, k: Tensor) -> bool:
    """Whether the first frame of q is the first of all, which sees itself alone."""
    return q.shape[1] == k.shape[1]


def _seeing_others(q: Tensor, k: Tensor) -> list[tuple[int, slice]]:
    """Each frame of q that sees more than itself, and the frames of k that it sees."""
    wanted, frames = q.shape[1], k.shape[1]
    return [(number, slice(frames - wanted + number + 1)) for number in range(1 if _begins(q, k) else 0, wanted)]


class _RootMeanSquare(torch.autograd.Function):
    """``rms_norm`` in fewer passes over x, for which torch has no kernel on CPUs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        normed: Tensor = unit * weight
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, weight = ctx.saved_tensors
        both = grad * unit
        along = (both @ weight)[..., None] / -weight.numel()
        return torch.addcmul(grad * weight, unit, along).mul_(scale), both.flatten(0, -2).sum(0), None
