"""Texts to token ids: learned from the data, or a pre-trained tower's own."""
