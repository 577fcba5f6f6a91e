"""The interface of the field's tutorials: data sets, batches and a validation loss for a training loop of your own."""
