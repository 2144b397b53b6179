"""From a run folder to a smaller one that opens, answers and is measured like it, behind a gate."""
