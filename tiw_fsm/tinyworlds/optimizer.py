"""What updates a model's weights: AdamW as TinyWorlds sets it up, alone or beside Muon."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn

from tiw_fsm.tinyworlds.config import OptimizerKeys, OptimizerName
from tiw_fsm.tinyworlds.peers import ALONE, Peers

WEIGHT_DECAY = 0.01
"""Of matrices only (TinyWorlds, ``optimizer_utils``)."""


class Optimizer:
    """One or more of torch's optimizers that share a model's parameters, as one.

    Args:
        parts: by name.
    """

    def __init__(self, parts: Mapping[OptimizerName, torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of all parts; what is changed in them holds."""
        return list(chain.from_iterable(part.param_groups for part in self.parts.values()))

    def zero_grad(self) -> None:
        """Leave no gradient."""
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Update the weights by their gradients."""
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: of a single part its own, as TinyWorlds saves it; of several each by its name."""
        states = {str(name): part.state_dict() for name, part in self.parts.items()}
        return states if len(states) > 1 else next(iter(states.values()))

    def load_state_dict(self, state: Mapping[str, Any], peers: Peers = ALONE) -> None:
        """Take over what ``state_dict`` gave, or this process's part of it, but not its settings: those in force stay.

        Raises:
            KeyError, ValueError: it is of another optimizer or of other parameters.
        """
        for name, part in self.parts.items():
            settings = [{key: group[key] for key in group if key != "params"} for group in part.param_groups]
            whole = state[name] if len(self.parts) > 1 else state
            own = [parameter for group in part.param_groups for parameter in group["params"]]
            moments = {
                number: {key: peers.part(value, own[number]) for key, value in of_one.items()}
                for number, of_one in whole["state"].items()
            }
            part.load_state_dict({**whole, "state": moments})
            for group, in_force in zip(part.param_groups, settings, strict=True):
                group.update(in_force)


def make_optimizer(model: nn.Module, keys: OptimizerKeys) -> Optimizer:
    """AdamW with TinyWorlds' settings, for all parameters or for those that are not Muon's.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) is torch's, of one matrix after the other,
    with TinyWorlds' decay and its factor on the rate, sqrt(max(1, rows / columns)).
    """
    named = dict(model.named_parameters())
    muon = [name for name in named if keys.optimizer == "muon" and is_hidden_matrix(name, named[name])]
    decayed = [name for name in named if name not in muon and not _is_plain(name, named[name])]
    plain = [name for name in named if name not in muon and _is_plain(name, named[name])]
    groups = [
        {"params": [named[name] for name in decayed], "weight_decay": WEIGHT_DECAY},
        {"params": [named[name] for name in plain], "weight_decay": 0.0},
    ]
    adamw = uncompiled(torch.optim.AdamW)(groups, lr=0.0, fused=True)
    if keys.optimizer == "adamw":
        return Optimizer({"adamw": adamw})
    return Optimizer(
        {
            "muon": uncompiled(torch.optim.Muon)(
                [named[name] for name in muon],
                lr=0.0,
                weight_decay=WEIGHT_DECAY,
                momentum=keys.muon_momentum,
                ns_steps=keys.muon_backend_steps,
            ),
            "adamw": adamw,
        }
    )


def uncompiled(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """A kind of optimizer as it is without what torch wraps around its methods for its compiler.

    The first call of any of them brings that compiler in, which takes nearly as long as torch itself. An optimizer is
    never compiled here.
    """
    names = "add_param_group", "zero_grad", "state_dict", "load_state_dict"
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**bare, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is Muon's: a matrix within a transformer's blocks. Embeddings, output heads and FiLM are not."""
    return parameter.ndim == 2 and "blocks." in name and "norm" not in name


def _is_plain(name: str, parameter: nn.Parameter) -> bool:
    """Vectors, biases and norms are not decayed."""
    return parameter.ndim == 1 or name.endswith(".bias") or "norm" in name


def missing(wanted: Iterable[OptimizerName]) -> list[str]:
    """Why this torch cannot train with the optimizers that are wanted, a sentence each; none if it can."""
    if "muon" not in wanted or hasattr(torch.optim, "Muon"):
        return []
    return [
        f"optimizer: muon needs torch.optim.Muon, which torch {torch.__version__} does not have; "
        "use a torch from 2.9 on, or set optimizer: adamw"
    ]
