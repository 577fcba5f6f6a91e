"""Readers of foreign formats; each is imported only when a URI asks for it."""
