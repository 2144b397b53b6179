"""Types, configuration, errors, files, randomness and process groups that all rooms share."""
