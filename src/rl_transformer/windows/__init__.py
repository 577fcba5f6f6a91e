"""Fixed-length model inputs cut from trajectories."""
