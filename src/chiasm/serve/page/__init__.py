"""The web page: files that are sent as they are."""
