"""The keys of TinyWorlds' YAML files, typed and validated where they are declared. ``loop.yaml`` has ``loop``.

``None`` means that the file says nothing.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tiw_fsm.tinyworlds.config import (
    DecoderContext,
    InferenceConfig,
    Masking,
    Momentum,
    MuonSteps,
    OptimizerName,
    Weight,
)
from tiw_fsm.values.frozen import Count, FrozenModel, Positive, Rate, Several, Share

MOST_CODE_BITS = 31
"""Of the video tokenizer's codebook."""


def _tried(device: object) -> object:
    if isinstance(device, str) and device.lower().startswith("mps"):
        raise ValueError("Apple's GPUs (mps) were never tried, and exact resume is not known to hold on them; give cpu")
    return device


Device = Annotated[Literal["auto", "cpu", "cuda"], BeforeValidator(_tried)]


class SharedKeys(FrozenModel):
    """Keys TinyWorlds takes from training.yaml first, else from the stage's own file."""

    dataset: str | None = None
    """A TinyWorlds name (ZELDA, PONG, …) or the path of an h5 file."""
    fps: Positive | None = None
    """Frames per second to keep of 60; the stride is 60 // fps."""
    preload_ratio: Share | None = None
    """Share of the rows to train on, from the first."""
    patch_size: Positive | None = None
    """Side of a square patch, in pixels."""
    context_length: Several | None = None
    """Frames in a training clip."""
    frame_size: Positive | None = None
    """Side of a square frame, in pixels."""
    latent_dim: Positive | None = None
    """Dimensions of a video token before quantization."""
    num_bins: Several | None = None
    """Quantization bins per latent dimension; the codebook has num_bins ** latent_dim codes."""
    n_actions: Several | None = None
    """Number of latent actions, a power of two."""
    embed_dim: Positive | None = None
    """Width of the transformer."""
    num_heads: Positive | None = None
    """Attention heads; divides embed_dim."""
    hidden_dim: Positive | None = None
    """Width of the feed-forward layer before SwiGLU's two thirds."""
    num_blocks: Positive | None = None
    """Transformer blocks."""
    batch_size_per_gpu: Positive | None = None
    """Clips per micro-batch."""
    gradient_accumulation_steps: Positive | None = None
    """Micro-batches per update."""
    n_updates: Positive | None = None
    """Updates after which the stage is done."""
    learning_rate: Rate | None = None
    """Peak learning rate."""
    log_interval: Positive | None = None
    """Updates between TinyWorlds' checkpoints."""
    amp: bool | None = None
    """bfloat16 autocast on CUDA."""
    tf32: bool | None = None
    """TensorFloat-32 matrix products on CUDA."""
    compile: bool | None = None
    """torch.compile the models."""
    device: Device | None = None
    """Where to compute; auto takes CUDA if there is one."""
    distributed: dict[str, Any] | None = None
    """use_ddp and use_fsdp: with several processes, the native engine shards with use_fsdp, else it replicates."""
    nproc_per_node: Positive | Literal["auto"] | None = None
    """Processes per machine that the batch sizes are meant for; auto: as many as there are GPUs. Where there are fewer
    GPUs, as many are used, and accumulation keeps the global batch."""
    standalone: bool | None = None
    """torchrun's --standalone."""
    use_wandb: bool | None = None
    """Log to Weights & Biases too, as `trackers: [wandb]` in loop.yaml does; but where it is not installed or has no
    key, the run goes on without."""
    wandb_project: str | None = None
    """Weights & Biases project, of runs that log there; `tiw_fsm` if nothing is said."""
    optimizer: OptimizerName | None = None
    """What updates the weights: adamw, or muon for the matrices within the transformers and AdamW for the rest."""
    muon_momentum: Momentum | None = None
    """Momentum of Muon."""
    muon_backend_steps: MuonSteps | None = None
    """Newton-Schulz steps in an update of Muon."""


class MixtureFile(FrozenModel):
    """Keys of the dynamics alone that TinyWorlds takes from training.yaml first, else from dynamics.yaml."""

    use_moe: bool | None = None
    """A mixture of experts in the place of every feed-forward layer of the dynamics."""
    num_experts: Positive | None = None
    """Experts in each of them."""
    top_k_experts: Positive | None = None
    """Of them, those that a token goes through."""
    moe_aux_loss_coeff: Weight | None = None
    """Weight of the loss that has the experts used evenly; 0 leaves them to the router."""


class StageFile(SharedKeys):
    """video_tokenizer.yaml or latent_actions.yaml."""

    checkpoint: str | None = None
    """TinyWorlds' resume path; here it comes from --*-checkpoint."""


class LatentFile(StageFile):
    """latent_actions.yaml."""

    film_init_std: Rate | None = None
    """How strongly actions act on a fresh model; TinyWorlds' is 0.001."""
    key_hint_weight: Annotated[float, Field(ge=0)] | None = None
    """Weight of the recorded keys (`actions`) as a hint to the latent actions; 0, the default, gives none."""
    decoder_context: DecoderContext | None = None
    """What the decoder sees in training: first_frame (as TinyWorlds) or past_frames, as at inference."""


class DynamicsFile(StageFile, MixtureFile):
    """dynamics.yaml."""

    film_init_std: Rate | None = None
    """How strongly actions act on a fresh model; TinyWorlds' is 0.001."""
    masking: Masking | None = None
    """Tokens to learn to fill in: scattered (as TinyWorlds) or next_frame, as at inference."""
    context_noise: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Largest share of visible tokens replaced by another clip's in training; 0, the default, replaces none."""

    use_actions: bool | None = None
    """Condition the dynamics on latent actions."""
    video_tokenizer_path: str | None = None
    """Left empty: injected at run time."""
    latent_actions_path: str | None = None
    """Left empty: injected at run time."""


class TrainingFile(SharedKeys, MixtureFile):
    """training.yaml: where the shared keys live."""

    video_tokenizer_config: str | None = None
    """Here the folder and the --*-config flags say it."""
    latent_actions_config: str | None = None
    """Here the folder and the --*-config flags say it."""
    dynamics_config: str | None = None
    """Here the folder and the --*-config flags say it."""
    run_video_tokenizer: bool | None = None
    """Here --train-stage says it."""
    run_latent_actions: bool | None = None
    """Here --train-stage says it."""
    run_dynamics: bool | None = None
    """Here --train-stage says it."""

    @model_validator(mode="after")
    def _codes_that_can_be_counted(self) -> Self:
        if self.num_bins and self.latent_dim and self.latent_dim * math.log2(self.num_bins) > MOST_CODE_BITS:
            raise ValueError(
                f"num_bins {self.num_bins} to the power of latent_dim {self.latent_dim} is the number of codes, and at "
                f"most 2 ** {MOST_CODE_BITS} can be counted; lower one of them"
            )
        return self


class InferenceFile(InferenceConfig):
    """inference.yaml: what inference runs with, and TinyWorlds' keys beside it."""

    video_tokenizer_path: str | None = None
    """Left empty: injected at run time."""
    latent_actions_path: str | None = None
    """Left empty: injected at run time."""
    dynamics_path: str | None = None
    """Left empty: injected at run time."""
    use_latest_checkpoints: bool | None = None
    """Always off: the checkpoints are the ones the state names."""
    dataset: str | None = None
    """Must be the dataset trained on."""
    device: Device | None = None
    """Where to compute; auto takes CUDA if there is one."""
    fps: Positive | None = None
    """Frame rate of TinyWorlds' video; unused here."""
    use_actions: bool | None = None
    """Here actions are always inferred from the true clip."""
    use_gt_actions: bool | None = None
    """Here actions are always inferred from the true clip."""
    use_interactive_mode: bool | None = None
    """Always off."""
    sample_index: Count | None = None
    """TinyWorlds' single clip; here several held-out clips are judged."""

    @model_validator(mode="before")
    @classmethod
    def _null_says_nothing(cls, values: Any) -> Any:
        """A key without a value leaves its default in force."""
        known = cls.model_fields
        return (
            {k: v for k, v in values.items() if v is not None or k not in known} if isinstance(values, dict) else values
        )
