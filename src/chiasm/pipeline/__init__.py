"""Model, codec, preprocessing and tasks as one thing that is written to and read from a run folder."""
