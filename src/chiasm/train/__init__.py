"""The single training loop with its optimiser, schedule, choice of trainable parameters, and resume."""
