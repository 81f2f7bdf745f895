"""Draws docs/demo.gif of a finished demo run: ``python docs/draw_demo.py [WORKING_ROOT]``.

Held-out episodes: above the true frames, below what the world model makes of the first two and of the keys pressed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import tiw_fsm
from tiw_fsm.tinyworlds.clips import FrameData, to_model, to_pixels

CLIPS, STEPS, SCALE, GAP, PAD = 4, 28, 2, 8, 44
LIGHT, DARK, PRESSED, PAPER = (205, 205, 205), (70, 70, 70), (47, 109, 181), (250, 250, 250)
ARROWS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def main(root: str = ".") -> None:
    run = tiw_fsm.open_run(repo_root=root)
    world, settings = run.world(), run.settings
    data = FrameData(settings.data, torch.device("cpu"))
    config = settings.inference.evolve(generation_steps=STEPS)
    starts = data.evaluation_starts(config, CLIPS)
    clips, keys = to_model(data.clips(starts, config.frames)), data.keys_between(starts, config.frames)
    assert data.keys is not None, "the demo's recording has keys"
    assert keys is not None
    names = [[data.keys.names[place] for place in clip] for clip in keys.tolist()]
    dreamt = world.rollout(clips, world.infer_actions(clips, config), config)
    dreamt = torch.cat([clips[:, : config.context_window], dreamt], dim=1)
    true, model = (to_pixels(frames) for frames in (clips, dreamt))
    pictures = [
        picture(true[:, t], model[:, t], [pressed[t : t + 1] for pressed in names], t < config.context_window)
        for t in range(config.frames)
    ]
    shared = pictures[-1].quantize(255, dither=Image.Dither.NONE)
    frames = [each.quantize(palette=shared, dither=Image.Dither.NONE) for each in pictures]
    target = Path(__file__).with_name("demo.gif")
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=[300] * (len(frames) - 1) + [1500], loop=0)
    print(f"{target} is drawn.")


def picture(true: np.ndarray, model: np.ndarray, keys: list[list[str]], given: bool) -> Image.Image:
    """One moment: frames [clips, H, W, C], the key pressed at each, if any, and whether the model was given them."""
    side = true.shape[1] * SCALE
    canvas = Image.new("RGB", (64 + CLIPS * (side + GAP), 2 * (side + GAP) + PAD), PAPER)
    pen = ImageDraw.Draw(canvas)
    for row, (label, frames) in enumerate((("true", true), ("given" if given else "imagined", model))):
        pen.text((6, row * (side + GAP) + side // 2), label, fill=DARK)
        for column, frame in enumerate(frames):
            tile = Image.fromarray(frame).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(tile, (64 + column * (side + GAP), row * (side + GAP)))
    pen.text((6, 2 * (side + GAP) + PAD // 2 - 6), "key", fill=DARK)
    for column, pressed in enumerate(keys):
        x, y = 64 + column * (side + GAP) + side // 2, 2 * (side + GAP) + PAD // 2 - 2
        for name, (dx, dy) in ARROWS.items():
            cx, cy = x + dx * 13, y + dy * 11
            pen.rectangle((cx - 5, cy - 5, cx + 5, cy + 5), fill=PRESSED if name in pressed else LIGHT)
    return canvas


if __name__ == "__main__":
    main(*sys.argv[1:])
