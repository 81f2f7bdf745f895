"""Several processes that train one model together, by ``torch.distributed``: replicated (DDP) or sharded (FSDP).

The order of every sum is fixed by the number of processes alone, so that what one group of that size computes, the next
one computes again bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tiw_fsm.tinyworlds.peers import AskedToStop, Step
from tiw_fsm.tinyworlds.transformer import STTransformerBlock

ENTRIES = ("loss", "generate")
"""Methods beside ``forward`` by which a model is called."""


class Replicated:
    """Every process holds the whole model.

    Args:
        control: a gloo group of all processes, for what is said beside gradients: no GPU waits for it.
    """

    never_compiled = ("stacked",)

    def __init__(self, control: dist.ProcessGroup) -> None:
        self.size, self.rank = dist.get_world_size(), dist.get_rank()
        self.control = control

    def stacked(self, own: Tensor) -> Tensor:
        held = own.detach()
        everyones = [torch.empty_like(held) for _ in range(self.size)]
        dist.all_gather(everyones, held.contiguous())
        everyones[self.rank] = held + self.size * (own - held)  # the same numbers
        return torch.stack(everyones)

    def total(self, own: Tensor) -> Tensor:
        found = own.clone()
        dist.all_reduce(found)
        return found

    def ask(self, asked: AskedToStop) -> AskedToStop:
        flag = torch.tensor(int(asked()))
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.control, async_op=True)

        def answer() -> bool:
            work.wait()
            return bool(flag)

        return answer

    def divide(self, model: nn.Module) -> None:
        pass

    def step(self, model: nn.Module, loss: Callable[[Any], Any]) -> Step:
        # A model has parameters that some configurations, or some passes, do not use. That they are looked for has
        # another merit: DDP then never regroups the gradients after a first backward pass, and a group that has
        # just been started sums in the order of one that has long been at work.
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # what will replace broadcast_buffers, older ones do not have
            together = DistributedDataParallel(
                _Minimised(model, loss), broadcast_buffers=False, find_unused_parameters=True
            )

        def exchanging(last: bool) -> AbstractContextManager[Any]:
            return nullcontext() if last else together.no_sync()

        return Step(together, exchanging)

    def whole(self, part: Tensor) -> Tensor:
        return part

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        return whole


class Sharded(Replicated):
    """Each process holds a part of every parameter (Zhao et al. 2023, arXiv:2304.11277).

    What it takes of torch is imported where it is used: that takes half as long as torch itself.
    """

    def divide(self, model: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        device = next(model.parameters()).device
        mesh = init_device_mesh(device.type, (self.size,))
        for module in model.modules():
            if isinstance(module, STTransformerBlock):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for name in ENTRIES:
            if hasattr(model, name):
                register_fsdp_forward_method(model, name)

    def step(self, model: nn.Module, loss: Callable[[Any], Any]) -> Step:
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(model, FSDPModule)

        def exchanging(last: bool) -> AbstractContextManager[Any]:
            model.set_requires_gradient_sync(last)
            return nullcontext()

        return Step(loss, exchanging)

    def whole(self, part: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        return part.full_tensor() if isinstance(part, DTensor) else part

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor) or whole.shape != like.shape:
            return whole
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)


class _Minimised(nn.Module):
    """A loss as the module that DDP wraps, since it begins an update's exchange in a call of ``forward``."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Any:
        return self.loss(batch)
