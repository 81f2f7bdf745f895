"""The processes that train one model together, as training sees them. Where there are several: ``process_group``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

AskedToStop = Callable[[], bool]


class Step(NamedTuple):
    """How a loss is minimised together.

    Attributes:
        loss: as it was given, but that its backward pass leaves the mean gradient over the processes.
        exchanging: within its block a pass is computed; gradients are exchanged in the ``last`` one of an update.
    """

    loss: Callable[[Any], Any]
    exchanging: Callable[[bool], AbstractContextManager[Any]]


class Peers(Protocol):
    """All processes that share an update. Each of them makes the same calls, in the same order."""

    size: int
    rank: int
    """Of this one, from 0."""

    def stacked(self, own: Tensor) -> Tensor:
        """``own`` of every process, in the order of ranks: [size, *own.shape].

        Every process makes the same of it, so the gradient of its own part counts ``size`` times: the mean over the
        processes is then the gradient of what was made, as if one process had held it all.
        """

    def total(self, own: Tensor) -> Tensor:
        """The sum of ``own`` over all processes."""

    def ask(self, asked: AskedToStop) -> AskedToStop:
        """Whether any process is asked to stop: all get the same answer. It is found out while other work goes on."""

    def divide(self, model: nn.Module) -> None:
        """Leave each process its part of a fresh model's parameters, where none is to hold all."""

    def step(self, model: nn.Module, loss: Callable[[Any], Any]) -> Step:
        """What minimises a ``loss`` of this ``model``."""

    def whole(self, part: Tensor) -> Tensor:
        """A parameter, or what belongs to one, as one process would hold it."""

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """What this process holds of a tensor that is divided as ``like`` is."""


class Alone:
    """The one process there is."""

    size = 1
    rank = 0

    def stacked(self, own: Tensor) -> Tensor:
        return own[None]

    def total(self, own: Tensor) -> Tensor:
        return own

    def ask(self, asked: AskedToStop) -> AskedToStop:
        return asked

    def divide(self, model: nn.Module) -> None:
        pass

    def step(self, model: nn.Module, loss: Callable[[Any], Any]) -> Step:
        return Step(loss, lambda last: nullcontext())

    def whole(self, part: Tensor) -> Tensor:
        return part

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        return whole


ALONE = Alone()
