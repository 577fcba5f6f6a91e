"""The causal transformer between the tokens and the heads."""
