"""The trunk: the causal transformer between the token embeddings and the action head."""
