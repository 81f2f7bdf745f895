"""The switches that make torch compute the same bits again. torch is imported when one is thrown."""

from __future__ import annotations

ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""What must stand in the environment before CUDA is first used (PyTorch's notes on reproducibility)."""
DETERMINISTIC_ALGORITHMS = True
MEMORY_EFFICIENT_ATTENTION = False
"""Its backward pass on CUDA is not deterministic."""


def make_deterministic(threads: int) -> None:
    """Throw the switches for this process, which is to compute with so many CPU threads."""
    import torch

    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error" if DETERMINISTIC_ALGORITHMS else "default")  # brings no compiler in
    # Nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.enable_mem_efficient_sdp(MEMORY_EFFICIENT_ATTENTION)


def allow_tf32(allowed: bool) -> None:
    """Let CUDA compute float32 products in TensorFloat-32, or not."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
