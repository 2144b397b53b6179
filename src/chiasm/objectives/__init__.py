"""Loss functions of tensors: they return named terms and their total, and know nothing of models, data or files."""
