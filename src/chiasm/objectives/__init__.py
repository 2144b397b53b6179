"""Loss functions of tensors: each returns named terms and their total, and depends on no model, data or file."""
