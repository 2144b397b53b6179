"""Report pages: measurements as HTML, charts and tables."""
