"""Clients of exported policies. They are copied into every export and need nothing of this package."""
