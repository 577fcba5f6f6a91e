"""Launch several runs: one per seed, or a search for good options."""
