"""Starting from language: pretrained trunks, alignment with words, text beside trajectories, and small language models."""
