"""How the shipped checkpoints were trained: data, model, optimiser, export; not needed to serve."""
