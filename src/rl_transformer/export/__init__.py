"""Export policies to files that act without PyTorch, and verify what runs, policies and exports promise."""
