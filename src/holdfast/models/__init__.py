"""Floor 3: where a classifier comes from, and whether it is wired correctly."""
