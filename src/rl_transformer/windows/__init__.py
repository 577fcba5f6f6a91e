"""Windows: the inputs of a model, cut from trajectories at a fixed length."""
