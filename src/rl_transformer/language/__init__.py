"""Start policies from language models.

A trunk can be initialized from a pretrained transformer, aligned with its word embeddings and co-trained on text (Reid
et al. 2022). Small language models can be pretrained on text, or on random sequences (Wang et al. 2024).
"""
