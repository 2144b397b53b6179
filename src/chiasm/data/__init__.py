"""From files, or from a generator, to batches of tensors."""
