"""Interchange with TinyWorlds' checkpoints: names, shapes and what they compute must not move."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.support.models import M, action_model, dynamics, expert_dynamics, tokenizer

BLOCK = """
    spatial_attn.q_proj.weight 12 12
    spatial_attn.q_proj.bias 12
    spatial_attn.k_proj.weight 12 12
    spatial_attn.k_proj.bias 12
    spatial_attn.v_proj.weight 12 12
    spatial_attn.v_proj.bias 12
    spatial_attn.out_proj.weight 12 12
    spatial_attn.out_proj.bias 12
    temporal_attn.q_proj.weight 12 12
    temporal_attn.q_proj.bias 12
    temporal_attn.k_proj.weight 12 12
    temporal_attn.k_proj.bias 12
    temporal_attn.v_proj.weight 12 12
    temporal_attn.v_proj.bias 12
    temporal_attn.out_proj.weight 12 12
    temporal_attn.out_proj.bias 12
"""
SWIGLU = """
    w_v.weight 6 12
    w_v.bias 6
    w_g.weight 6 12
    w_g.bias 6
    w_o.weight 12 6
    w_o.bias 12
"""
PLAIN_NORMS = """
    spatial_attn.norm.rms.weight 12
    temporal_attn.norm.rms.weight 12
    ffn.norm.rms.weight 12
"""
FILM_NORMS = """
    spatial_attn.norm.to_gamma_beta.1.weight 24 2
    spatial_attn.norm.to_gamma_beta.1.bias 24
    temporal_attn.norm.to_gamma_beta.1.weight 24 2
    temporal_attn.norm.to_gamma_beta.1.bias 24
    ffn.norm.to_gamma_beta.1.weight 24 2
    ffn.norm.to_gamma_beta.1.bias 24
"""
TOKENIZER = """
    encoder.patch_embed.proj.weight 12 48 1 1
    encoder.patch_embed.proj.bias 12
    encoder.latent_head.0.weight 12
    encoder.latent_head.0.bias 12
    encoder.latent_head.1.weight 2 12
    encoder.latent_head.1.bias 2
    decoder.latent_embed.weight 12 2
    decoder.latent_embed.bias 12
    decoder.frame_head.to_pixels.weight 48 12 1 1
    decoder.frame_head.to_pixels.bias 48
    quantizer.basis 2
"""
ACTION_MODEL = """
    encoder.patch_embed.proj.weight 12 48 1 1
    encoder.patch_embed.proj.bias 12
    encoder.action_head.0.weight 24
    encoder.action_head.0.bias 24
    encoder.action_head.1.weight 8 24
    encoder.action_head.1.bias 8
    encoder.action_head.3.weight 2 8
    encoder.action_head.3.bias 2
    quantizer.basis 2
    decoder.mask_token 1 1 1 12
    decoder.patch_embed.proj.weight 12 48 1 1
    decoder.patch_embed.proj.bias 12
    decoder.frame_head.0.weight 12
    decoder.frame_head.0.bias 12
    decoder.frame_head.1.weight 48 12
    decoder.frame_head.1.bias 48
"""
DYNAMICS = """
    mask_token 1 1 1 2
    latent_embed.weight 12 2
    latent_embed.bias 12
    output_mlp.weight 9 12
    output_mlp.bias 9
"""


def shapes(listing: str, prefix: str = "") -> dict[str, tuple[int, ...]]:
    rows = (line.split() for line in listing.splitlines() if line)
    return {prefix + name: tuple(map(int, sizes)) for name, *sizes in rows}


def block(norms: str, within: str = "") -> dict[str, tuple[int, ...]]:
    """A transformer's only block, its feed-forward layer plain."""
    prefix = f"{within}transformer.blocks.0."
    return shapes(BLOCK + norms, prefix) | shapes(SWIGLU, f"{prefix}ffn.")


def expert_block(norms: str) -> dict[str, tuple[int, ...]]:
    """The same, with three experts in its feed-forward layer."""
    experts = [shapes(SWIGLU, f"transformer.blocks.0.ffn.experts.{i}.") for i in range(3)]
    router = shapes("ffn.router.weight 3 12" + norms + BLOCK, "transformer.blocks.0.")
    return router | experts[0] | experts[1] | experts[2]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (tokenizer, shapes(TOKENIZER) | block(PLAIN_NORMS, "encoder.") | block(PLAIN_NORMS, "decoder.")),
        (action_model, shapes(ACTION_MODEL) | block(PLAIN_NORMS, "encoder.") | block(FILM_NORMS, "decoder.")),
        (dynamics, shapes(DYNAMICS) | block(FILM_NORMS)),
        (expert_dynamics, shapes(DYNAMICS) | expert_block(FILM_NORMS)),
    ],
)
def test_weights_keep_the_names_and_shapes_of_tinyworlds(
    build: Callable[[], nn.Module], expected: dict[str, tuple[int, ...]]
) -> None:
    assert {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()} == expected


def wave(model: M) -> M:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            ramp_of_parameter = torch.arange(parameter.numel()).add(1.0)
            parameter.copy_(ramp_of_parameter.mul(len(name)).sin().view_as(parameter))
    return model


def ramp(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)


@torch.no_grad()
def test_the_same_weights_compute_what_they_compute_in_tinyworlds() -> None:
    """The numbers were printed by TinyWorlds' own models under these weights and inputs."""
    frames, latents, actions = ramp(2, 3, 3, 8, 8), ramp(2, 3, 4, 2), ramp(2, 2, 2)
    autoencoder, action, world = wave(tokenizer()), wave(action_model()), wave(dynamics())
    experts = wave(expert_dynamics())
    outputs = {
        autoencoder.detokenize(latents): [-1.86524, -2.88881, -2.95827],
        autoencoder.encoder(frames): [-0.23288, -0.32504, 0.24982],
        action.train()(frames)[1]: [0.0366, -0.38697, 0.82588],
        action.eval().decoder(frames, actions): [-0.40686, -0.44645, 0.63981],
        world(latents, actions): [2.59065, 0.99269, 1.6916],
        experts(latents, actions): [-0.81818, -1.41505, -0.46898],
    }
    for output, expected in outputs.items():
        probes = output.flatten()[:: output.numel() // 3][:3]
        assert torch.allclose(probes, torch.tensor(expected), atol=1e-4)


@torch.no_grad()
def test_experts_are_used_as_in_tinyworlds_and_its_loss_of_their_balance_is_added() -> None:
    """TinyWorlds' own model printed these, under the same weights and inputs."""
    latents, actions, nothing_hidden = ramp(2, 3, 4, 2), ramp(2, 2, 2), torch.zeros(2, 3, 4, dtype=torch.bool)
    loss, shares = wave(expert_dynamics()).loss(latents, nothing_hidden.long(), nothing_hidden, actions)
    assert shares is not None
    assert loss.item() == pytest.approx(0.01041155)
    assert torch.allclose(shares, torch.tensor([[0.1875, 0.33333, 0.47917]]), atol=1e-5)
