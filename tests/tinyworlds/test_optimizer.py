"""What updates the weights: AdamW alone as ever, or Muon for the matrices within the blocks."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from tests.support.models import action_model, dynamics, expert_dynamics, seeded, tokenizer
from tiw_fsm.tinyworlds.config import OptimizerKeys
from tiw_fsm.tinyworlds.optimizer import Optimizer, make_optimizer

MUON = OptimizerKeys(optimizer="muon")


def names_of(model: nn.Module, part: torch.optim.Optimizer) -> set[str]:
    held = {id(parameter) for group in part.param_groups for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in held}


def update(model: nn.Module, optimizer: Optimizer | torch.optim.Optimizer, *numbers: int, rate: float = 0.01) -> None:
    """Updates by gradients that depend on their number alone."""
    for number in numbers:
        optimizer.zero_grad()
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=seeded(number))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def saved(state: object) -> bytes:
    torch.save(state, content := io.BytesIO())
    return content.getvalue()


@pytest.mark.parametrize("build", [tokenizer, action_model, dynamics, expert_dynamics])
def test_muon_has_the_matrices_within_the_blocks_and_adamw_all_else(build: type[nn.Module]) -> None:
    model = build()
    parts = make_optimizer(model, MUON).parts
    muon, adamw = (names_of(model, part) for part in parts.values())
    assert list(parts) == ["muon", "adamw"]
    assert muon | adamw == {name for name, _ in model.named_parameters()}
    assert not muon & adamw
    kinds = {"q_proj", "k_proj", "v_proj", "out_proj", "w_v", "w_g", "w_o", "router"}
    assert muon == {name for name in muon | adamw if name.endswith(".weight") and name.split(".")[-2] in kinds}


def test_adamw_alone_is_torchs_own_to_the_last_byte_of_its_file() -> None:
    """TinyWorlds reads it."""
    models = dynamics(), dynamics()
    plain = ("norm", ".bias")
    groups = [
        {"params": [p for name, p in models[0].named_parameters() if not any(part in name for part in plain)]},
        {"params": [p for name, p in models[0].named_parameters() if any(part in name for part in plain)]},
    ]
    theirs = torch.optim.AdamW([g | {"weight_decay": d} for g, d in zip(groups, (0.01, 0.0), strict=True)], fused=True)
    ours = make_optimizer(models[1], OptimizerKeys())
    for model, optimizer in zip(models, (theirs, ours), strict=True):
        update(model, optimizer, 0, 1, 2)
    assert saved(ours.state_dict()) == saved(theirs.state_dict())
    assert saved(models[0].state_dict()) == saved(models[1].state_dict())


def test_an_update_of_muon_is_nearly_orthogonal_whatever_the_gradient() -> None:
    """Its singular values lie about 1, times the rate and TinyWorlds' factor for tall matrices."""
    model = dynamics()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    update(model, optimizer := make_optimizer(model, MUON), 0, rate=0.1)
    for name in names_of(model, optimizer.parts["muon"]):
        step = before[name] * (1 - 0.1 * 0.01) - model.get_parameter(name)
        rows, columns = step.shape
        values = torch.linalg.svdvals(step.detach()) / 0.1 / max(1, rows / columns) ** 0.5
        assert 0.3 < values.min() < values.max() < 1.4, name


def test_muon_goes_on_from_its_state_bit_for_bit() -> None:
    whole, halted = dynamics(), dynamics()
    update(whole, make_optimizer(whole, MUON), 0, 1)
    update(halted, before := make_optimizer(halted, MUON), 0)
    after = make_optimizer(halted, MUON)
    after.load_state_dict(torch.load(io.BytesIO(saved(before.state_dict())), weights_only=True))
    update(halted, after, 1)
    assert saved(halted.state_dict()) == saved(whole.state_dict())


def test_settings_that_were_changed_are_not_undone_by_what_is_loaded() -> None:
    model = dynamics()
    before = make_optimizer(model, MUON)
    update(model, before, 0)
    after = make_optimizer(model, OptimizerKeys(optimizer="muon", muon_momentum=0.5, muon_backend_steps=3))
    after.load_state_dict(before.state_dict())
    (group,) = after.parts["muon"].param_groups
    assert (group["momentum"], group["ns_steps"]) == (0.5, 3)


@pytest.mark.parametrize(("wrote", "reads"), [(MUON, OptimizerKeys()), (OptimizerKeys(), MUON)])
def test_the_state_of_another_optimizer_is_refused(wrote: OptimizerKeys, reads: OptimizerKeys) -> None:
    model = dynamics()
    with pytest.raises((KeyError, ValueError)):
        make_optimizer(model, reads).load_state_dict(make_optimizer(model, wrote).state_dict())
