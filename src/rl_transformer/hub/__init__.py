"""Share policies on the Hugging Face Hub: a model card from the run's own files, and an upload of them."""
