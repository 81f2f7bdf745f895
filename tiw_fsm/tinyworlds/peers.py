"""The processes that train one model together, as the mathematics sees them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Peers(Protocol):
    """All processes that share an update. Gradients are the mean over them."""

    size: int
    rank: int
    """Of this one, from 0."""

    def stacked(self, own: Tensor) -> Tensor:
        """``own`` of every process, in the order of ranks: [size, *own.shape].

        Every process makes the same of it, so the gradient of its own part counts ``size`` times: the mean over the
        processes is then the gradient of what was made, as if one process had held it all.
        """


class Alone:
    """The one process there is."""

    size = 1
    rank = 0

    def stacked(self, own: Tensor) -> Tensor:
        """``own``, [1, *own.shape]."""
        return own[None]


ALONE = Alone()
