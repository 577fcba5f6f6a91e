"""Hugging Face transformers as trunks."""
