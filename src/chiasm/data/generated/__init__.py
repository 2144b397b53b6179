"""Examples that are drawn by rules, whose truth is known."""
