"""How much of a set's classes a frozen image tower already knows."""
