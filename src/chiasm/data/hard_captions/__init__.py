"""Captions with one thing exchanged, which no longer describe their image."""
