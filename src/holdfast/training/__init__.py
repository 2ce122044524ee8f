"""Floor 4: learning weights that survive the worst case."""
