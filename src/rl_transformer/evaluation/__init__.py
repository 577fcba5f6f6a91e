"""Scores of a policy in live environments."""
