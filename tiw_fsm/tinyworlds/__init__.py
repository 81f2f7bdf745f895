"""TinyWorlds in PyTorch: models, what they are made and trained with, clips, training, rollout.

All that decides the bits of a result lives here, its determinism switches too, and the fingerprint of a run takes all
of this folder. It knows nothing of runs, machines or files of state: beside torch and numpy it needs ``values`` and
``stages`` alone.

Shape letters, as in TinyWorlds: B batch, T frames, P patches, E embedding, L latent dimensions,
A action dimensions, C channels, H height, W width.
"""
