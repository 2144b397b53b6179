"""Inference from a run folder: predictions, index, HTTP server and web page."""
