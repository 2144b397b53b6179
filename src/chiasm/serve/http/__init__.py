"""The HTTP door: routes, limits, and the process that serves them."""
