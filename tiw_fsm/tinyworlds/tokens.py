"""Tokens and actions of training clips, computed once: while dynamics train, nothing they depend on changes."""

from __future__ import annotations

import torch
from torch import Tensor

from tiw_fsm.tinyworlds.clips import FrameData, to_model
from tiw_fsm.tinyworlds.latent_actions import LatentActionModel
from tiw_fsm.tinyworlds.video_tokenizer import VideoTokenizer

BLOCK = 16
"""Clips tokenized together. Rounding depends on a batch's shape, so that a clip is always tokenized in its own block,
whoever asks for it: what an interrupted run computes again comes out the same."""


class ClipTokens:
    """Looks up training clips by their number, and tokenizes a block the first time it is needed.

    Args:
        length: frames per clip.
        actions: infers what happened between frames; None where dynamics are trained without actions.
    """

    def __init__(
        self, data: FrameData, length: int, tokenizer: VideoTokenizer, actions: LatentActionModel | None
    ) -> None:
        self.data, self.length, self.tokenizer, self.action_model = data, length, tokenizer, actions
        self.starts = data.clip_starts(length, held_out=False)
        self.filled = torch.zeros(-(-len(self.starts) // BLOCK), dtype=torch.bool)
        patches = tokenizer.encoder.patch_embed.pos_spatial.shape[0]
        self.indices = torch.empty((len(self.starts), length, patches), dtype=torch.int32, device=data.device)
        self.actions = torch.empty((len(self.starts), length - 1), dtype=torch.int32, device=data.device)

    @torch.no_grad()
    def lookup(self, picks: Tensor) -> tuple[Tensor, Tensor | None]:
        """Token indices [B, T, P] and action indices [B, T-1] of clips number ``picks`` [B], given on the CPU."""
        for block in torch.unique(picks // BLOCK).tolist():
            if not self.filled[block]:
                self._fill(block)
        rows = picks.to(self.data.device, non_blocking=True)
        actions = self.actions[rows].long() if self.action_model is not None else None
        return self.indices[rows].long(), actions

    def _fill(self, block: int) -> None:
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        frames = to_model(self.data.clips(self.starts[rows], self.length))
        self.indices[rows] = self.tokenizer.tokenize(frames).int()
        if self.action_model is not None:
            actions = self.action_model.encode(frames)
            self.actions[rows] = self.action_model.quantizer.indices_from_latents(actions).int()
        self.filled[block] = True
