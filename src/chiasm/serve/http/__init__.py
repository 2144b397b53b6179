"""The HTTP server: routes, limits, and the serving process."""
