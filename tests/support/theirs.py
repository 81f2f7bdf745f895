"""Run by a real checkout's interpreter, in its root: what its own models compute from given checkpoints and frames.

``python theirs.py QUESTION ANSWER``: both are files of ``torch.save``; the question holds a stage's folder under its
name, and frames [B, T, C, H, W] in [-1, 1].
"""

import sys

import torch
from utils.utils import (
    load_dynamics_from_checkpoint,
    load_latent_actions_from_checkpoint,
    load_videotokenizer_from_checkpoint,
)

question, answer = sys.argv[1:]
asked = torch.load(question, weights_only=True)
tokenizer = load_videotokenizer_from_checkpoint(asked["video_tokenizer"], "cpu")[0].eval()
latent_actions = load_latent_actions_from_checkpoint(asked["latent_actions"], "cpu")[0].eval()
dynamics = load_dynamics_from_checkpoint(asked["dynamics"], "cpu")[0].eval()
with torch.no_grad():
    latents = tokenizer.quantizer(tokenizer.encoder(asked["frames"]))
    actions = latent_actions.encode(asked["frames"])
    found = {
        "tokens": tokenizer.tokenize(asked["frames"]),
        "frames": tokenizer.detokenize(latents),
        "actions": actions,
        "logits": dynamics(latents, training=False, conditioning=actions)[0],
    }
torch.save(found, answer)
