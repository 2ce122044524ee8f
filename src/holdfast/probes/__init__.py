"""Floor 2: one question about a model, or one piece of theory, in each file. Pure functions that return figures."""
