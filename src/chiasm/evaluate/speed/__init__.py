"""How fast a model is on this machine, beside other engines with the same weights and the limits of the machine."""
