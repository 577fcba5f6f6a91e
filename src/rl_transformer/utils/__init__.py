"""Provide datasets, batches and a validation loss for a training loop of your own."""
