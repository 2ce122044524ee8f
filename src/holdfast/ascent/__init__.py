"""Floor 1: how a search for the worst perturbation is driven: rows, states, step rules, and the slot engine."""
