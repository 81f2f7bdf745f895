"""A film of a run's rollouts on held-out clips: what is true above what the world model imagines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tiw_fsm.api import Run
from tiw_fsm.errors import UsageProblem
from tiw_fsm.system import durable
from tiw_fsm.tinyworlds import determinism
from tiw_fsm.tinyworlds.clips import to_pixels
from tiw_fsm.tinyworlds.training import autocast
from tiw_fsm.worlds import films, held_out
from tiw_fsm.worlds.devices import device_called

Clips = NDArray[np.uint8]
"""[B, T, H, W, 3]."""
SHOWN, COLUMNS = 8, 4
"""Clips in a film, and side by side in it."""
SIDE, GAP, LABEL, TITLE = 112, 4, 68, 26
"""Pixels: the least side of a frame as it is shown, between frames, beside and above them."""
PAPER, DARK, GIVEN, IMAGINED = (250, 250, 250), (20, 20, 20), (120, 120, 120), (47, 109, 181)
HELD = films.PACE
"""How often the last frame is shown: for a second, before it begins again."""
MAKERS: dict[str, Callable[[list[films.Picture]], bytes]] = {".mp4": films.film, ".gif": films.moving_picture}
"""By the end of a file's name."""


def write(
    run: Run,
    path: Path,
    *,
    force: bool,
    allow_failed: bool,
    device: str = "auto",
    each_step: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Roll out on the clips that the gate judges, as it does, and film it; returns how many clips are shown.

    Args:
        path: a name that ends with .mp4 or .gif.
        each_step: is told the steps done, and all.

    Raises:
        UsageProblem: ``path`` cannot be made, PyAV is missing, the run has no passed world, or its frames are gone.
        StateDamaged: a checkpoint is not what the state vouches for.
        DiskRefused: the disk did not take it.
    """
    path = Path(os.path.abspath(path))
    _require_possible(path, force)
    run.require_world(None if allow_failed else "--allow-failed films it all the same")
    true, model, window = rollouts(run, device, each_step)
    pictures = moments(run.state.run, true[:SHOWN], model[:SHOWN], window)
    durable.replace(path, MAKERS[path.suffix.lower()](pictures + pictures[-1:] * HELD))
    return min(SHOWN, len(true))


def rollouts(run: Run, device: str, each_step: Callable[[int, int], None]) -> tuple[Clips, Clips, int]:
    """The true clips, what the model makes of their context and actions, with that context, and its length."""
    place = device_called(device)
    state, settings, world = run.newest(str(place))
    config = settings.inference
    determinism.allow_tf32(config.tf32)
    data = held_out.frame_data(settings, place)
    clips = data.evaluation_clips(config, state.loop.inference.clips)
    with autocast(place, config.amp):
        actions = world.infer_actions(clips, config)
        made = world.rollout(clips, actions, config, each_step=lambda step: each_step(step, config.generation_steps))
    window = config.context_window
    return to_pixels(clips), to_pixels(torch.cat([clips[:, :window], made], dim=1)), window


def moments(title: str, true: Clips, model: Clips, window: int) -> list[films.Picture]:
    """A picture of each moment: the clips in bands, in each the true frames above those of the model."""
    count, length, height, width = true.shape[:4]
    scale = max(1, -(-SIDE // min(height, width)))
    tall, wide = height * scale, width * scale
    columns = min(COLUMNS, count)
    band = 2 * (tall + GAP) + 2 * GAP
    size = LABEL + columns * (wide + GAP) + GAP, TITLE + -(-count // columns) * band
    font = ImageFont.load_default(13)
    found = []
    for t in range(length):
        canvas = Image.new("RGB", size, PAPER)
        pen = ImageDraw.Draw(canvas)
        given = t < window
        when = f"frame {t + 1} of {length}, {'given' if given else 'imagined'}"
        pen.text((GAP * 2, 6), f"{title}: {when}", fill=DARK, font=font)
        for clip in range(count):
            x, y = LABEL + clip % columns * (wide + GAP), TITLE + clip // columns * band
            for row, frames in enumerate((true, model)):
                tile = Image.fromarray(frames[clip, t]).resize((wide, tall), Image.Resampling.NEAREST)
                canvas.paste(tile, (x, y + row * (tall + GAP)))
        for top in range(TITLE, size[1], band):
            pen.text((GAP * 2, top + tall // 2 - 8), "true", fill=DARK, font=font)
            word, colour = ("given", GIVEN) if given else ("imagined", IMAGINED)
            pen.text((GAP * 2, top + tall + GAP + tall // 2 - 8), word, fill=colour, font=font)
        found.append(np.asarray(canvas))
    return found


def _require_possible(path: Path, force: bool) -> None:
    suffix = path.suffix.lower()
    if suffix not in MAKERS:
        raise UsageProblem(f"{path}: name the film .mp4 or .gif")
    if suffix == ".mp4" and films.film_codec() is None:
        raise UsageProblem(
            "a film in .mp4 needs av with an H.264 encoder: pip install 'tiw_fsm[video]', or name a .gif"
        )
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise UsageProblem(f"{path} is no file: give another name")
    if os.path.lexists(path) and not force:
        raise UsageProblem(f"{path} is already there: --force films it again, --video elsewhere")
