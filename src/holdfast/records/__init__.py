"""Floor 3: what is written about a run, and how it is read again."""
