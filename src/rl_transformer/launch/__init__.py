"""Several runs at once: seeds, and searches for options."""
