"""Detectors of adversarial examples on one model: against who ignores them and against who knows them."""
