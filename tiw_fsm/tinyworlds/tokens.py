"""Tokens and actions of training clips. While dynamics train, nothing they depend on changes."""

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
    """Looks up training clips by their number.

    Where training draws more clips than there are, a block is tokenized the first time that one of it is needed, and
    kept; where it draws fewer, most of a block would never be used, and what is asked for is tokenized at once.

    Args:
        length: frames per clip.
        drawn: clips that training will draw.
        actions: infers what happened between frames; None where dynamics are trained without actions.
    """

    def __init__(
        self, data: FrameData, length: int, drawn: int, tokenizer: VideoTokenizer, actions: LatentActionModel | None
    ) -> None:
        self.data, self.length, self.tokenizer, self.action_model = data, length, tokenizer, actions
        self.starts = data.clip_starts(length, held_out=False)
        self.kept = drawn >= len(self.starts)
        clips, patches = len(self.starts) if self.kept else 0, tokenizer.encoder.patch_embed.pos_spatial.shape[0]
        self.filled = torch.zeros(-(-clips // BLOCK), dtype=torch.bool)
        self.indices = torch.empty((clips, length, patches), dtype=torch.int32, device=data.device)
        self.actions = torch.empty((clips, length - 1), dtype=torch.int32, device=data.device)

    @torch.no_grad()
    def lookup(self, picks: Tensor) -> tuple[Tensor, Tensor | None]:
        """Token indices [B, T, P] and action indices [B, T-1] of clips number ``picks`` [B], given on the CPU."""
        if not self.kept:
            return self._tokenized(picks)
        for block in torch.unique(picks // BLOCK).tolist():
            if not self.filled[block]:
                self._fill(block)
        rows = picks.to(self.data.device, non_blocking=True)
        actions = self.actions[rows].long() if self.action_model is not None else None
        return self.indices[rows].long(), actions

    def _fill(self, block: int) -> None:
        picks = torch.arange(block * BLOCK, min((block + 1) * BLOCK, len(self.starts)))
        indices, actions = self._tokenized(picks)
        self.indices[picks] = indices.int()
        if actions is not None:
            self.actions[picks] = actions.int()
        self.filled[block] = True

    def _tokenized(self, picks: Tensor) -> tuple[Tensor, Tensor | None]:
        frames = to_model(self.data.clips(self.starts[picks], self.length))
        indices, model = self.tokenizer.tokenize(frames), self.action_model
        return indices, None if model is None else model.quantizer.indices_from_latents(model.encode(frames))
