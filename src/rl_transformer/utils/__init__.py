"""Provide data sets, batches and a validation loss for a training loop of your own, as tutorials of the field use them."""
