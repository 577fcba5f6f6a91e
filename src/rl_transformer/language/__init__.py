"""Starting from a language model: pretrained trunks, alignment with word embeddings, co-training on text, small language models."""
