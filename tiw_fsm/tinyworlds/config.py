"""What the models are made, trained and rolled out with. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tiw_fsm.tinyworlds.division import divisors
from tiw_fsm.values.frozen import Count, FrozenModel, Positive, Rate, Several, Share, Tuning

Baseline = Literal["copy_last", "mean_frame", "blurred_last"]
"""Trivial predictions that a world model is held against; ``baselines.py`` makes them."""


DecoderContext = Literal["first_frame", "past_frames"]
"""What the decoder of the latent actions sees in training beside the actions; at inference it is the past."""
Masking = Literal["scattered", "next_frame"]
"""Which tokens the dynamics learn to fill in."""
OptimizerName = Literal["adamw", "muon"]
"""What updates the weights; ``optimizer.py`` makes it."""
Momentum = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MuonSteps = Annotated[int, Field(ge=1, le=99)]
"""torch takes no more."""


class StageOptions(FrozenModel):
    """What TinyWorlds does not have: off by default, so that a stage trains as TinyWorlds' own does."""

    film_init_std: Rate = 0.001
    """How strongly actions act on a fresh model: standard deviation of the weights that scale and shift by them."""
    key_hint_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the recorded keys as a hint to the latent actions; 0 leaves them to be found without."""
    decoder_context: DecoderContext = "first_frame"
    """What the latent actions' decoder sees in training: the first frame alone, or all past frames as at inference."""
    masking: Masking = "scattered"
    """Tokens that dynamics learn to fill in: any of the clip, or those of its last frame, as at inference."""
    context_noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest share of a clip's visible tokens that dynamics see replaced by another clip's, as their own errors do."""


class OptimizerKeys(FrozenModel):
    """TinyWorlds' newer keys of what updates the weights; without effect but for ``optimizer: muon``."""

    optimizer: OptimizerName = "adamw"
    """adamw, or muon for the matrices within the transformers and AdamW for the rest."""
    muon_momentum: Momentum = 0.95
    """Muon's."""
    muon_backend_steps: MuonSteps = 5
    """Newton-Schulz steps of Muon."""


class MixtureKeys(FrozenModel):
    """TinyWorlds' newer keys of the dynamics' feed-forward layers; without effect but for ``use_moe: true``."""

    use_moe: bool = False
    """A mixture of experts in the place of every feed-forward layer of the dynamics."""
    num_experts: Positive = 4
    """Experts in each."""
    top_k_experts: Positive = 2
    """Of them, those that a token goes through."""
    moe_aux_loss_coeff: Weight = 0.01
    """Weight of the loss that has the experts used evenly."""


class StageConfig(StageOptions, OptimizerKeys, MixtureKeys):
    """What one stage trains with, all sources merged. The keys are TinyWorlds', and our own options."""

    n_updates: Positive
    learning_rate: Rate
    gradient_accumulation_steps: Positive
    batch_size_per_gpu: Positive
    log_interval: Positive
    context_length: Positive
    frame_size: Positive
    patch_size: Positive
    embed_dim: Positive
    num_heads: Positive
    hidden_dim: Positive
    num_blocks: Positive
    latent_dim: Positive
    num_bins: Positive
    n_actions: Positive
    use_actions: bool = True
    amp: bool = False
    tf32: bool = False
    compile: bool = False

    @property
    def tuning(self) -> Tuning:
        """What it begins with of what a ladder may change."""
        return Tuning(**{key: getattr(self, key) for key in Tuning.model_fields})

    @model_serializer(mode="wrap")
    def _options_in_use(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What has no effect is left out: what trains as TinyWorlds always did is saved as it always saved it."""
        options = StageOptions.model_fields
        values: dict[str, Any] = plain(self)
        idle = {key for key, option in options.items() if values[key] == option.default}
        if self.optimizer == "adamw":
            idle |= OptimizerKeys.model_fields.keys()
        if not self.use_moe:
            idle |= MixtureKeys.model_fields.keys()
        return {key: value for key, value in values.items() if key not in idle}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.frame_size % self.patch_size:
            problems.append(
                f"frame_size {self.frame_size} is not divisible by patch_size {self.patch_size}; "
                f"try frame_size {self.frame_size // self.patch_size * self.patch_size or self.patch_size}"
            )
        if self.embed_dim % self.num_heads:
            problems.append(
                f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}; "
                f"use one of {', '.join(map(str, divisors(self.embed_dim)[:8]))}"
            )
        if self.embed_dim % 2 or self.embed_dim < 6:
            problems.append(
                f"embed_dim {self.embed_dim} cannot be split into even parts for x, y and time; "
                "use an even number, at least 6"
            )
        if self.n_actions & (self.n_actions - 1):
            problems.append(
                f"n_actions {self.n_actions} is not a power of two; use {1 << self.n_actions.bit_length() - 1} "
                f"or {1 << self.n_actions.bit_length()}"
            )
        if self.use_moe and self.top_k_experts > self.num_experts:
            problems.append(
                f"top_k_experts {self.top_k_experts} is more than num_experts {self.num_experts}; "
                f"use at most {self.num_experts}, or more experts"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self


class DataSource(FrozenModel):
    """The rows a run is trained and judged on."""

    path: str
    skip: Count
    stride: Positive
    preload_ratio: Share | None = None


class InferenceConfig(FrozenModel):
    """What inference runs with: inference.yaml's keys, its defaults filled in."""

    preload_ratio: Share | None = None
    """Share of the held-out rows to draw clips from."""
    generation_steps: Positive = 12
    """Frames to generate, a prediction horizon at a time."""
    context_window: Several = 2
    """Frames the model sees before each step."""
    temperature: Annotated[float, Field(ge=0)] = 0.5
    """Sampling temperature; 0 takes the likeliest token."""
    teacher_forced: bool = False
    """Feed true frames instead of generated ones."""
    prediction_horizon: Positive = 1
    """Frames decoded together in one step."""
    decode_steps: Positive = 10
    """MaskGIT decoding steps per prediction."""
    seed: Count = 0
    """Seed of clips, random actions and sampling."""
    amp: bool = False
    """bfloat16 autocast on CUDA."""
    tf32: bool = False
    """TensorFloat-32 matrix products on CUDA."""
    compile: bool = False
    """torch.compile the models."""

    @property
    def frames(self) -> int:
        """Frames a clip must have: the context and everything generated."""
        return self.context_window + self.generation_steps * self.prediction_horizon
