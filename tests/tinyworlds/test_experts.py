"""Mixtures of experts: who computes a token, what the router learns of it, and what is told of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.support.models import SIZES, T, codebook, dynamics, lively, seeded, some_actions, some_tokens
from tiw_fsm.tinyworlds.dynamics import DynamicsModel
from tiw_fsm.tinyworlds.objectives import expert_statistics
from tiw_fsm.tinyworlds.transformer import Mixture, MixtureFFN


def layer(num_experts: int = 4, top_k: int = 2) -> MixtureFFN:
    torch.manual_seed(0)
    return lively(MixtureFFN(SIZES, Mixture(num_experts, top_k)))


def test_a_token_is_the_sum_of_its_best_experts_weighted_by_a_softmax_over_these() -> None:
    ffn, x = layer(), torch.randn(2, 3, 4, 12, generator=seeded())
    for token, out in zip(x.flatten(0, 2), ffn(x).flatten(0, 2), strict=True):
        first, second = ffn.router(token).argsort(descending=True)[:2].tolist()
        weights = ffn.router(token)[[first, second]].softmax(0)
        expected = ffn.norm(token + weights[0] * ffn.experts[first](token) + weights[1] * ffn.experts[second](token))
        assert torch.allclose(out, expected, atol=1e-5)


def test_with_all_experts_alike_it_is_one_of_them() -> None:
    ffn, x = layer(top_k=4), torch.randn(1, 2, 3, 12, generator=seeded())
    for expert in ffn.experts:
        expert.load_state_dict(ffn.experts[0].state_dict())
    assert torch.allclose(ffn(x), ffn.norm(x + ffn.experts[0](x)), atol=1e-5)


def test_an_expert_that_no_token_chose_learns_nothing_and_does_no_harm() -> None:
    ffn, x, routing = layer(top_k=1), torch.rand(2, 3, 4, 12, generator=seeded()), list[Tensor]()
    with torch.no_grad():
        ffn.router.weight.copy_(torch.tensor([1.0, 0, 0, 0])[:, None].expand(4, 12))
    ffn(x, routing=routing).square().sum().backward()
    assert routing[0][0].tolist() == [1, 0, 0, 0]
    gradients = [torch.cat([p.grad.flatten() for p in expert.parameters()]) for expert in ffn.experts]
    assert [bool(gradient.any()) for gradient in gradients] == [True, False, False, False]


@pytest.mark.parametrize(("num_experts", "top_k"), [(2, 3), (2, 0)])
def test_a_token_cannot_go_through_more_experts_than_there_are(num_experts: int, top_k: int) -> None:
    with pytest.raises(ValueError, match="choose from 1 to 2"):
        layer(num_experts, top_k)


# ---- the loss of their balance ----


def balance_of(model: DynamicsModel, latents: Tensor, **peers: OneOfTwo) -> Tensor:
    """Nothing is hidden, so that nothing else is in the loss."""
    nothing = torch.zeros(latents.shape[:3], dtype=torch.bool)
    loss, _ = model.loss(latents, nothing.long(), nothing, some_actions(T - 1, len(latents)), **peers)
    return loss


def expert_model(weight: float = 1.0) -> DynamicsModel:
    return dynamics(mixture=Mixture(4, 1, weight), num_blocks=2)


def test_the_balance_is_1_for_each_block_that_is_sure_of_nothing_and_more_where_one_expert_gets_all() -> None:
    model, (latents, _) = expert_model(), some_tokens()
    routers = [block.ffn.router for block in model.transformer.blocks]
    with torch.no_grad():
        for router in routers:
            router.weight.zero_()
    assert balance_of(model, latents).item() == pytest.approx(2.0)
    assert balance_of(expert_model(), latents).item() > 2.0
    assert balance_of(expert_model(weight=0.5), latents).item() == pytest.approx(
        balance_of(expert_model(), latents).item() / 2
    )


def test_learning_it_alone_evens_the_use() -> None:
    model, (latents, _) = expert_model(), some_tokens(batch=8)
    before = balance_of(model, latents)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        balance_of(model, latents).backward()
        optimizer.step()
    assert 2 <= balance_of(model, latents).item() < 2 + (before.item() - 2) / 2


class OneOfTwo:
    """A process of two, the other of which told its part beforehand."""

    size = 2

    def __init__(self, rank: int, other: Tensor) -> None:
        self.rank, self.other = rank, other

    def stacked(self, own: Tensor) -> Tensor:
        both = [own * 2 - own.detach(), self.other]  # its own part counts twice in the gradient
        return torch.stack(both if self.rank == 0 else both[::-1])


class Listening:
    """A process alone that hears what it would tell others."""

    size, rank = 1, 0

    def stacked(self, own: Tensor) -> Tensor:
        self.heard = own.detach()
        return own[None]


def test_the_balance_is_of_the_tokens_of_all_processes() -> None:
    """Value and gradient, the mean over the processes, are those of one process with all tokens."""
    latents, _ = some_tokens(batch=4)
    alone = expert_model()
    actions, nothing = some_actions(T - 1, 4), torch.zeros(4, T, 4, dtype=torch.bool)

    def loss(model: DynamicsModel, clips: slice, **peers: OneOfTwo | Listening) -> Tensor:
        hidden = nothing[clips]
        return model.loss(latents[clips], hidden.long(), hidden, actions[clips], **peers)[0]

    expected = loss(alone, slice(0, 4))
    expected.backward()
    halves, told = (slice(0, 2), slice(2, 4)), []
    for half in halves:
        loss(expert_model(), half, peers=(listening := Listening()))
        told.append(listening.heard)
    pair = [expert_model() for _ in halves]
    for rank, (model, half) in enumerate(zip(pair, halves, strict=True)):
        found = loss(model, half, peers=OneOfTwo(rank, told[1 - rank]))
        assert torch.allclose(found, expected)
        found.backward()
    routers = [[block.ffn.router.weight.grad for block in model.transformer.blocks] for model in (alone, *pair)]
    for whole, one, other in zip(*routers, strict=True):
        assert torch.allclose(whole, (one + other) / 2, atol=1e-6)


# ---- what is told ----


def test_a_row_has_the_least_entropy_and_every_share_whatever_the_number_of_micro_batches() -> None:
    row = expert_statistics(3 * torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]]))
    assert row["expert_entropy"] == pytest.approx(math.log(2))
    assert row["expert_shares"] == [[0.25] * 4, [0.5, 0.5, 0, 0]]


def test_frames_are_generated_by_experts_too() -> None:
    model, (context, _) = expert_model().eval(), some_tokens(frames=2)
    frames = model.generate(context, 1, 3, None, codebook)
    assert frames.shape == (2, 3, 4, 2)
    assert torch.equal(frames[:, :2], context)
