"""Readers of local folders with pre-trained weights."""
