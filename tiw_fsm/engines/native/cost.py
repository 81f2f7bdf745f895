"""What an update costs on a CPU, from the sizes alone: about, and without torch.

The work is of three kinds, each of which a factor turns into time: numbers that pass by, scores of attention between
patches, and products. The factors were fitted to trainers from 56 to 128 pixels, 49 to 1,024 patches a frame and widths
from 32 to 256 (within a third of each), on one thread of a Xeon of the fifth generation; other processors, and others'
work beside this, easily make it two or three times as long.
"""

from __future__ import annotations

import math

from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.config import StageConfig

PASSING, SCORE, PRODUCT = 280e-9, 6e-9, 0.05e-9
"""Seconds of a thread for each, through both transformers of a model, forward and backward."""
LEAST = 8e-3
"""Seconds of a block in a micro-batch, however little there is to compute."""
PART = {Stage.DYNAMICS: 0.6}
"""Of that, what a stage has that is not two transformers: dynamics are one, and the choice among all tokens."""
SCALING = 0.9
"""Power of the number of threads by which they are faster than one."""


def seconds_of_update(stage: Stage, config: StageConfig, threads: int) -> float:
    """About how long an update takes on ``threads`` of a CPU."""
    patches = (config.frame_size // config.patch_size) ** 2
    width = config.embed_dim
    products = width * (8 * width + 2 * config.hidden_dim + 2 * patches)
    of_token = PASSING * width + SCORE * patches * config.num_heads + PRODUCT * products
    tokens = config.batch_size_per_gpu * config.context_length * patches
    of_block = max(LEAST, tokens * of_token / math.pow(threads, SCALING))
    return PART.get(stage, 1.0) * config.gradient_accumulation_steps * config.num_blocks * of_block
