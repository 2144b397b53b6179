"""Linear probe: a linear classifier on the features of a frozen image tower."""
