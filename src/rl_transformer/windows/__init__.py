"""Fixed-length model inputs cut from trajectories: which windows, and their tensors."""
