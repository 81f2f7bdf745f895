"""Keys that a player pressed, as a recording has them: ``actions[n]`` was pressed at row n and leads to row n + 1.

Between the frames of a clip lie ``stride`` rows. What was pressed between two frames is known where all of these rows
say the same; a negative value says that the key is unknown, and the last row of an episode leads nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

UNKNOWN = -1


class RecordedKeys:
    """What was pressed between a row and the one ``stride`` rows later.

    Args:
        actions: long [N], any numbers; a negative one is unknown.
        names: what the recording calls the keys, by number; may be empty.
        training: bool [N], the rows that training may see: these decide which keys there are.

    Attributes:
        values: the different keys as the recording numbers them, ascending; gaps between them mean nothing.
        names: of these keys.
        between: long [N], for each row the place in ``values`` of what leads from it to the next frame, or ``UNKNOWN``.
    """

    def __init__(self, actions: Tensor, training: Tensor, stride: int, names: Sequence[str] = ()) -> None:
        self.values: list[int] = torch.unique(actions[training & (actions >= 0)]).tolist()
        self.names = [names[value] if value < len(names) else str(value) for value in self.values]
        places = torch.full_like(actions, UNKNOWN)
        for place, value in enumerate(self.values):
            places[actions == value] = place
        held = places.clone()
        for ahead in range(1, min(stride, len(places))):
            held[:-ahead][held[:-ahead] != places[ahead:]] = UNKNOWN
        held[max(0, len(places) - stride + 1) :] = UNKNOWN
        self.between, self.stride = held, stride
        known = held[training & (held != UNKNOWN)]
        self.counts = torch.bincount(known, minlength=len(self.values))
        """How often training sees each key, long [K]."""

    def clip(self, starts: Tensor, length: int) -> Tensor:
        """Places of the keys between the frames of clips that begin at rows ``starts`` [B]: long [B, length - 1]."""
        return self.between[starts[:, None] + torch.arange(length - 1) * self.stride]

    def codes(self, n_actions: int) -> Tensor:
        """The action that stands for each key, long [K], where a model is told the keys; ``UNKNOWN`` for none.

        The keys pressed most get one each, in their own order; what is left over, if there are more keys than actions,
        is for the model to find. A single key tells nothing.
        """
        codes = torch.full((len(self.values),), UNKNOWN)
        pressed = (self.counts > 0).nonzero().flatten()
        if len(pressed) > 1:
            most = pressed[self.counts[pressed].argsort(descending=True, stable=True)][:n_actions].sort().values
            codes[most] = torch.arange(len(most))
        return codes


def agreement(actions: Tensor, keys: Tensor) -> float | None:
    """Normalised mutual information of actions and keys: their mutual information over the mean of their entropies.

    Args:
        actions: long [N], from 0.
        keys: long [N], ``UNKNOWN`` where there is none.

    Returns:
        From 0 (they know nothing of one another) to 1 (each tells the other); None where fewer than two keys are known.
    """
    table = together(actions, keys)
    by_key = table.sum(0)
    if int((by_key > 0).sum()) < 2:
        return None
    joint, action, key = (entropy(counts) for counts in (table.flatten(), table.sum(1), by_key))
    return max(0.0, 2 * (action + key - joint) / (action + key))


def together(actions: Tensor, keys: Tensor) -> Tensor:
    """How often each action [N] goes with each key [N]: long [actions, keys], those of unknown keys left out."""
    actions, keys = actions.flatten().cpu(), keys.flatten().cpu()
    known = keys != UNKNOWN
    actions, keys = actions[known], keys[known]
    rows, columns = (int(values.max()) + 1 if len(values) else 0 for values in (actions, keys))
    return torch.bincount(actions * columns + keys, minlength=rows * columns).reshape(rows, columns)


def entropy(counts: Tensor) -> float:
    """Of a distribution, in nats, from how often each thing occurs, long [N]."""
    shares = counts[counts > 0].double() / counts.sum()
    return float((shares * shares.log()).sum().abs())
