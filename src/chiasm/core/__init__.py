"""The shared vocabulary of every room, and plumbing that has no opinion about images or words."""
