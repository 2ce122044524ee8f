"""Randomised smoothing: what is certified of a model, beside what an attack leaves of it."""
