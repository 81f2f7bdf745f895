"""TinyWorlds in PyTorch: models, data, training and rollout. Knows nothing of the controller.

Shape letters, as in TinyWorlds: B batch, T frames, P patches, E embedding, L latent dimensions,
A action dimensions, C channels, H height, W width.
"""
