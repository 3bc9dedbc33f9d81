"""Stand-in: is there, and that is all."""
