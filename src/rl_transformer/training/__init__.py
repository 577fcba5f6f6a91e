"""Train a model on batches: losses, the optimizer, update strategies, checkpoints and metrics."""
