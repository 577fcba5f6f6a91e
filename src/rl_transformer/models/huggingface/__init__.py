"""Hugging Face: its Decision Transformer's folders, and its transformers as trunks."""
